"""The cases of the adapters that run in interpreters of their own: each a section of params, and its models."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.core.errors import UserError
from tests.envs import models
from tests.pipeline.extractors.vlms import WITH_TORCHVISION, write_vlm

Section = tuple[str, dict[str, Any]]
Pictures = Sequence[Image.Image]

CASES = {
    "lavis": ("beams", "nucleus"),
    "detectron2": ("faster_rcnn", "mask_rcnn", "retinanet"),
    "easyocr": ("en",),
    "vlm": tuple(WITH_TORCHVISION),
}
ZOO: dict[str, tuple[str, list[str] | None]] = {
    "faster_rcnn": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", ["a", "b", "c"]),
    "mask_rcnn": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", ["a", "b", "c"]),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", None),
}


def write(case: str, folder: Path, pictures: Pictures) -> Section:
    """The section of params of a case, and the models that it names, in `folder`."""
    if case in CASES["lavis"]:
        sampled = {"num_captions": 3, "decoding": "nucleus"} if case == "nucleus" else {"num_captions": 2}
        return "captions", {"extractor": "lavis", "lavis": {**models.write_lavis(folder), **sampled}}
    if case in CASES["easyocr"]:
        return "ocr", {"extractor": "easyocr", "easyocr": models.write_easyocr(folder, pictures, "en")}
    if case in CASES["vlm"]:
        options = {"model": str(write_vlm(case, folder)), "prompt": "a picture of", "max_new_tokens": 5}
        return "captions", {"extractor": "vlm", "vlm": {**options, "environment": "vlm"}}
    return "objects", {"extractor": "detectron2", "detectron2": models.write_detectron2(folder, *ZOO[case])}


def changed(section: Section, **options: Any) -> Section:
    kind, values = section
    name = values["extractor"]
    return kind, {**values, name: {**values[name], **options}}


def options_of(section: Section) -> dict[str, Any]:
    options: dict[str, Any] = section[1][section[1]["extractor"]]
    return options


def mistake(action: Callable[[], object]) -> str:
    try:
        action()
    except UserError as error:
        return str(error)
    raise AssertionError("no UserError")
