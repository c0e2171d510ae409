"""What the adapters of transformers' models give: what transformers itself gives, sorted, cut and scored."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.extractors._coco import CLASSES, NUMBERED
from pipeline.extractors.registry import choose
from pipeline.images.manifest import manifest
from pipeline.settings.params import ExecutionParams, ImagesParams
from tests.pipeline.extractors.cases import captions, make, ready, tags
from tests.pipeline.extractors.detectors import write_rf_detr

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.mark.parametrize("name", ["yolos", "rt_detr"])
def test_object_tags_are_those_of_transformers(
    name: str, request: pytest.FixtureRequest, pictures: list[Image.Image]
) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = request.getfixturevalue(name)
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    for picture, found in zip(pictures[:4], tags(folder, pictures[:4], threshold=0.2), strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"))
        expected = processor.post_process_object_detection(outputs, 0.2, [(picture.height, picture.width)])[0]
        assert len(found) == len(expected["scores"]) > 0
        best = int(expected["scores"].argmax())
        assert found[0].label == model.config.id2label[int(expected["labels"][best])]
        assert found[0].score == pytest.approx(float(expected["scores"][best]), abs=2e-4)
        box = expected["boxes"][best].clamp(min=0)
        limits = torch.tensor([picture.width, picture.height] * 2)
        assert found[0].box == pytest.approx(torch.minimum(box, limits).tolist(), abs=0.1)


def bilinear(picture: Image.Image, side: int) -> "NDArray[np.float64]":
    """The picture as a square, each pixel from the four that its middle lies between; (side, side, 3)."""
    pixels = np.asarray(picture, dtype=np.float64)
    for axis in (0, 1):
        length = pixels.shape[axis]
        at = ((np.arange(side) + 0.5) * length / side - 0.5).clip(0, length - 1)
        first = np.floor(at).astype(int)
        weight = (at - first).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        following = (first + 1).clip(max=length - 1)
        pixels = pixels.take(first, axis) * (1 - weight) + pixels.take(following, axis) * weight
    return pixels


def test_rf_detrs_tags_are_those_of_its_model(rf_detr: Path, pictures: list[Image.Image]) -> None:
    """Its pictures are resized without smoothing, its classes are independent, and a query may have several."""
    import torch
    from transformers import AutoModelForObjectDetection

    model = AutoModelForObjectDetection.from_pretrained(rf_detr).eval()
    for picture, found in zip(pictures[:4], tags(rf_detr, pictures[:4], threshold=0.5), strict=True):
        pixels = (bilinear(picture, 64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        with torch.no_grad():
            outputs = model(pixel_values=torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
        scores = outputs.logits[0].sigmoid().flatten()
        expected = [at for at in scores.argsort(descending=True).tolist()[:20] if scores[at] > 0.5]
        assert len(found) == len(expected) > 1
        assert [tag.score for tag in found] == pytest.approx(scores[expected].tolist(), abs=2e-4)
        x, y, width, height = outputs.pred_boxes[0, expected[0] // 3].tolist()
        assert found[0].label == model.config.id2label[expected[0] % 3]
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        box = [min(max(place, 0), 1) * side for place, side in zip(corners, picture.size * 2, strict=True)]
        assert found[0].box == pytest.approx(box, abs=0.11)


def test_params_name_the_classes_of_a_checkpoint_that_does_not(
    yolos: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """RF-DETR's conversion leaves 91 classes unnamed, which are COCO's by their own numbers."""
    folder = write_rf_detr(tmp_path / "model", num_labels=91)
    with pytest.raises(UserError, match=r"names none of its 91 classes; .*objects\.transformers\.classes"):
        tags(folder, pictures[:1])
    named = {tag.label for found in tags(folder, pictures, threshold=0.0, classes="coco") for tag in found}
    assert named <= {"N/A", *CLASSES}
    assert (NUMBERED[1], NUMBERED[13], NUMBERED[90], NUMBERED[12]) == ("person", "stop sign", "toothbrush", "N/A")
    renamed = tags(yolos, pictures[:2], threshold=0.4, classes=["a", "b", "c"])
    letters = {"person": "a", "dog": "b", "ball": "c"}
    assert [[tag.label for tag in found] for found in renamed] == [
        [letters[tag.label] for tag in found] for found in tags(yolos, pictures[:2], threshold=0.4)
    ]
    with pytest.raises(UserError, match=r"classes: 80 names, and .* has 3 classes"):
        tags(yolos, pictures[:1], classes="coco")


def test_object_tags_are_sorted_cut_and_inside_the_picture(yolos: Path, pictures: list[Image.Image]) -> None:
    everything = tags(yolos, pictures, threshold=0.0)
    for picture, found in zip(pictures, everything, strict=True):
        assert [tag.score for tag in found] == sorted((tag.score for tag in found), reverse=True)
        for x0, y0, x1, y1 in (tag.box for tag in found):
            assert 0 <= x0 <= x1 <= picture.width
            assert 0 <= y0 <= y1 <= picture.height
    assert tags(yolos, pictures, threshold=0.0, max_objects=3) == [found[:3] for found in everything]
    assert tags(yolos, pictures, threshold=1.0) == [[]] * 16


def test_a_detector_that_gives_nan_gives_failed_rows(yolos: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    """The threshold would leave NaN out, and the picture would seem to hold nothing."""
    import torch
    from transformers import YolosForObjectDetection

    shutil.copytree(yolos, tmp_path / "model")
    model = YolosForObjectDetection.from_pretrained(yolos)
    with torch.no_grad():
        model.class_labels_classifier.layers[0].bias.fill_(3e38)
    model.save_pretrained(tmp_path / "model")
    pictures[0].save(tmp_path / "a.png")
    rows = list(manifest(["a.png"], tmp_path, ImagesParams()))
    extractor = ready(("objects", {"extractor": "transformers", "transformers": {"model": str(tmp_path / "model")}}))
    with Store.open(tmp_path / "store") as store:
        summary = extract("objects", extractor, rows, tmp_path, tmp_path / "out.jsonl", store)
    assert (summary.read, summary.failed) == (0, 1)
    assert "NaN" in (tmp_path / "out.jsonl").read_text()


def test_half_precision_runs(blip: Path, yolos: Path, pictures: list[Image.Image]) -> None:
    assert all(captions(blip, pictures, dtype="bfloat16"))
    assert len(tags(yolos, pictures, dtype="bfloat16")) == 16


def test_a_missing_or_wrong_checkpoint_is_one_message(
    blip: Path, yolos: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    with pytest.raises(UserError, match="no such folder"):
        choose("captions", {"extractor": "blip", "blip": {"model": "checkpoints/not/here"}}).require()
    with pytest.raises(UserError, match="no such folder"):
        make(("captions", {"extractor": "blip", "blip": {"model": "checkpoints/not/here"}})).fingerprint()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for kind, name in (("captions", "blip"), ("objects", "transformers")):
        with pytest.raises(UserError, match="checkpoint"):
            ready((kind, {"extractor": name, name: {"model": str(tmp_path)}})).extract(pictures[:1])
    with pytest.raises(UserError, match="checkpoint"):
        captions(yolos, pictures[:1])
    with pytest.raises(UserError, match=r"execution\.device"):
        ready(("captions", {"extractor": "blip", "blip": {"model": str(blip)}}), ExecutionParams(device="cuda:7"))
