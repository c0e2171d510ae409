"""Fixtures that the tests of extractors and of the engine share: small models, pictures, params, a bench."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.engine.bench import Bench
from tests.pipeline.extractors import cases as extractor_cases
from tests.pipeline.extractors import detectors, florence, grids, vlms
from tests.pipeline.extractors.cases import written
from tests.pipeline.extractors.chat_server import ChatServer
from tests.pipeline.extractors.onnx_file import write_yolox


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="session")
def blip(checkpoints: Path) -> Path:
    return extractor_cases.write_blip(checkpoints / "blip")


@pytest.fixture(scope="session")
def blip_2(checkpoints: Path) -> Path:
    return extractor_cases.write_blip_2(checkpoints / "blip_2")


@pytest.fixture(scope="session")
def git(checkpoints: Path) -> Path:
    return extractor_cases.write_git(checkpoints / "git")


@pytest.fixture(scope="session")
def florence2(checkpoints: Path) -> Path:
    return florence.write_florence2(checkpoints / "florence2")


@pytest.fixture(scope="session")
def llava(checkpoints: Path) -> Path:
    return vlms.write_vlm("llava", checkpoints / "llava")


@pytest.fixture(scope="session")
def idefics3(checkpoints: Path) -> Path:
    return vlms.write_vlm("idefics3", checkpoints / "idefics3")


@pytest.fixture(scope="session")
def siglip(checkpoints: Path) -> Path:
    return extractor_cases.write_siglip(checkpoints / "siglip")


@pytest.fixture(scope="session")
def clip(checkpoints: Path) -> Path:
    return extractor_cases.write_clip(checkpoints / "clip")


@pytest.fixture(scope="session")
def yolos(checkpoints: Path) -> Path:
    return detectors.write_yolos(checkpoints / "yolos")


@pytest.fixture(scope="session")
def rt_detr(checkpoints: Path) -> Path:
    return detectors.write_rt_detr(checkpoints / "rt_detr")


@pytest.fixture(scope="session")
def rf_detr(checkpoints: Path) -> Path:
    return detectors.write_rf_detr(checkpoints / "rf_detr")


@pytest.fixture(scope="session")
def grounding_dino(checkpoints: Path) -> Path:
    return detectors.write_grounding_dino(checkpoints / "grounding_dino")


@pytest.fixture(scope="session")
def owlv2(checkpoints: Path) -> Path:
    return detectors.write_owlv2(checkpoints / "owlv2")


@pytest.fixture(scope="session")
def yolox(checkpoints: Path) -> Path:
    return write_yolox(checkpoints / "yolox.onnx")


@pytest.fixture(scope="session")
def resnet(checkpoints: Path) -> Path:
    return grids.write_resnet(checkpoints / "resnet")


@pytest.fixture(scope="session")
def torchvision_file(checkpoints: Path) -> Path:
    return grids.write_torchvision(checkpoints / "resnet.pth")


@pytest.fixture(scope="session")
def convnext(checkpoints: Path) -> Path:
    return grids.write_convnext(checkpoints / "convnext")


@pytest.fixture(scope="session")
def vit(checkpoints: Path) -> Path:
    return grids.write_vit(checkpoints / "vit")


@pytest.fixture(scope="session")
def effnet_lite(checkpoints: Path) -> Path:
    return grids.write_effnet_lite(checkpoints / "effnet_lite.pth")


@pytest.fixture(scope="session")
def chat_server() -> Iterator[ChatServer]:
    """One that answers with a picture's mean colour."""
    with ChatServer() as server:
        yield server


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Sixteen pictures of several sizes, some with writing."""
    rng = np.random.default_rng(5)
    sizes = [(96, 64), (64, 96), (200, 100), (77, 50), (96, 64), (30, 130), (96, 64), (320, 120)]
    noise = [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
    return noise + [written(f"Number {number}\nBERLIN {number * 37}") for number in range(8)]


@pytest.fixture(scope="session")
def sections(
    blip: Path,
    blip_2: Path,
    git: Path,
    florence2: Path,
    llava: Path,
    idefics3: Path,
    yolos: Path,
    rt_detr: Path,
    rf_detr: Path,
    grounding_dino: Path,
    owlv2: Path,
    clip: Path,
    yolox: Path,
    resnet: Path,
    torchvision_file: Path,
    convnext: Path,
    effnet_lite: Path,
    chat_server: ChatServer,
) -> dict[str, tuple[str, dict[str, Any]]]:
    """One section of params for every extractor that ships, and each architecture it is tried with."""

    def section(name: str, model: Path, **options: Any) -> dict[str, Any]:
        return {"extractor": name, name: {"model": str(model), **options}}

    asked = {"prompt": "a picture of", "max_new_tokens": 5}
    regions = {"num_beams": 1, "max_new_tokens": 11}
    served = {"extractor": "http", "http": {"model": "a-model", "url": chat_server.url, "prompt": "What is it?"}}
    labels = ["dog", "red ball", "cat"]
    return {
        "blip": ("captions", section("blip", blip, num_captions=2)),
        "blip_sampling": ("captions", section("blip", blip, num_captions=3, decoding="nucleus")),
        "blip_2": ("captions", section("blip", blip_2, num_captions=2, max_new_tokens=6)),
        "git": ("captions", section("blip", git, num_captions=2, max_new_tokens=6)),
        "florence2_captions": ("captions", section("florence2", florence2, num_beams=2, max_new_tokens=6)),
        "florence2_objects": ("objects", section("florence2", florence2, **regions)),
        "florence2_ocr": ("ocr", section("florence2", florence2, **regions)),
        "vlm_captions": ("captions", section("vlm", llava, **asked)),
        "vlm_ocr": ("ocr", section("vlm", idefics3, **asked)),
        "yolos": ("objects", section("transformers", yolos, threshold=0.4)),
        "rt_detr": ("objects", section("transformers", rt_detr, threshold=0.2)),
        "rf_detr": ("objects", section("transformers", rf_detr, threshold=0.5)),
        "grounding_dino": ("objects", section("zero_shot", grounding_dino, labels=labels, threshold=0.3)),
        "owlv2": ("objects", section("zero_shot", owlv2, labels=labels, threshold=0.3)),
        "yolox": ("objects", section("yolox", yolox, classes=["person", "dog", "ball"])),
        "attributes": (
            "objects",
            {
                **section("yolox", yolox, classes=["person", "dog", "ball"]),
                "attributes": {"model": str(clip), "labels": ["red", "blue", "snow"], "threshold": 0.3},
            },
        ),
        "rapidocr": ("ocr", {"extractor": "rapidocr", "rapidocr": {}}),
        "resnet": ("features", section("resnet", resnet, side=64, grid=2)),
        "torchvision": ("features", section("resnet", torchvision_file, side=64, grid=2)),
        "backbone": ("features", section("backbone", convnext, side=64, grid=2)),
        "effnet_lite": ("features", section("effnet_lite", effnet_lite, side=64, grid=2)),
        "tesseract": ("ocr", {"extractor": "tesseract", "tesseract": {}}),
        **{f"http_{kind}": (kind, served) for kind in ("objects", "captions", "ocr")},
    }
