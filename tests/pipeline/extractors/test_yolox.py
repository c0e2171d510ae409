"""YOLOX from an ONNX file: letterboxing, decoding and suppression, and what it sees in real pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag
from pipeline.extractors import _boxes
from pipeline.extractors.registry import choose
from pipeline.extractors.yolox import Yolox
from tests.pipeline.extractors.onnx_file import write_yolox


def detector(model: Path, **options: Any) -> Yolox:
    found = choose("objects", {"extractor": "yolox", "yolox": {"model": str(model), **options}}).create()
    assert isinstance(found, Yolox)
    found.load()
    return found


def small(model: Path, **options: Any) -> Yolox:
    return detector(model, classes=["person", "dog", "ball"], **options)


def overlap(one: ObjectTag, other: ObjectTag) -> float:
    assert one.box is not None
    assert other.box is not None
    (a0, b0, a1, b1), (c0, d0, c1, d1) = one.box, other.box
    shared = max(0.0, min(a1, c1) - max(a0, c0)) * max(0.0, min(b1, d1) - max(b0, d0))
    union = (a1 - a0) * (b1 - b0) + (c1 - c0) * (d1 - d0) - shared
    return shared / union if union else 0.0


def by_hand(model: Path, picture: Image.Image, threshold: float, limit: float, agnostic: bool) -> list[ObjectTag]:
    """The same, one number at a time, by what YOLOX's paper and demo say."""
    import cv2
    import onnxruntime

    ratio = min(64 / picture.height, 64 / picture.width)
    scaled = cv2.resize(np.asarray(picture), (int(picture.width * ratio), int(picture.height * ratio)))
    pixels = np.full((64, 64, 3), 114.0, np.float32)
    pixels[: scaled.shape[0], : scaled.shape[1]] = scaled
    blue_first = pixels[:, :, ::-1].transpose(2, 0, 1)[None].copy()
    rows = iter(onnxruntime.InferenceSession(str(model)).run(None, {"images": blue_first})[0][0].tolist())
    candidates = []
    for stride in (8, 16, 32):
        for row in range(64 // stride):
            for column in range(64 // stride):
                x, y, width, height, objectness, *classes = next(rows)
                centre = ((x + column) * stride, (y + row) * stride)
                half = (np.exp(width) * stride / 2, np.exp(height) * stride / 2)
                box = tuple(
                    float(value) / ratio
                    for value in (centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1])
                )
                scores = [objectness * one for one in classes]
                for label, score in enumerate(scores):
                    if score >= threshold and (not agnostic or score == max(scores)):
                        candidates.append(ObjectTag(["person", "dog", "ball"][label], None, score, box))  # type: ignore[arg-type]
    kept: list[ObjectTag] = []
    for tag in sorted(candidates, key=lambda tag: -(tag.score or 0)):
        if all(overlap(tag, other) <= limit for other in kept if agnostic or other.label == tag.label):
            kept.append(tag)
    return kept


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize(("threshold", "limit"), [(0.3, 0.45), (0.2, 0.2), (0.25, 1.0)])
def test_tags_are_those_that_the_demo_would_find(yolox: Path, agnostic: bool, threshold: float, limit: float) -> None:
    rng = np.random.default_rng(2)  # noise everywhere, so that no two scores are the same
    noise = [Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)) for side in (64, 100, 40, 211, 63)]
    found = small(yolox, threshold=threshold, nms=limit, class_agnostic=agnostic, max_objects=10_000).extract(noise)
    for picture, tags in zip(noise, found, strict=True):
        left = by_hand(yolox, picture, threshold, limit, agnostic)
        assert [tag.score for tag in tags] == sorted((tag.score or 0 for tag in tags), reverse=True)
        assert len(tags) == len(left) > 1
        for tag in tags:
            left.remove(next(other for other in left if alike(tag, other, picture.width)))


def alike(tag: ObjectTag, other: ObjectTag, side: int) -> bool:
    assert other.box is not None
    clipped = [min(max(one, 0), side) for one in other.box]
    return (
        tag.label == other.label
        and tag.score == pytest.approx(other.score, abs=1e-4)
        and tag.box == pytest.approx(clipped, abs=0.11)
    )


def test_a_picture_that_is_no_square_is_filled_up_with_grey(yolox: Path) -> None:
    wide = small(yolox).prepare(Image.new("RGB", (128, 32), (10, 20, 30)))
    assert wide.pixels.shape == (64, 64, 3)
    assert (wide.ratio, wide.size) == (0.5, (32, 128))
    assert (wide.pixels[:16] == (30, 20, 10)).all(), "blue first"
    assert (wide.pixels[16:] == 114).all()


def test_suppression_keeps_the_best_of_what_overlaps() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [20, 0, 30, 10], [0, 0, 10, 5], [5, 5, 5, 5]], np.float32)
    scores = np.array([0.8, 0.9, 0.3, 0.7, 0.1], np.float32)
    assert _boxes.suppress(boxes, scores, 0.5) == [1, 2, 4]
    assert _boxes.suppress(boxes, scores, 0.7) == [1, 3, 2, 4]
    assert _boxes.suppress(boxes, scores, 1.0) == [1, 0, 3, 2, 4]
    assert _boxes.suppress(boxes[:0], scores[:0], 0.5) == []
    labels = np.array([0, 1, 0, 0, 0])
    assert _boxes.suppress(boxes, scores, 0.45, labels) == [1, 0, 2, 4], "another class does not suppress"
    assert _boxes.suppress(boxes[:0], scores[:0], 0.5, labels[:0]) == []


def test_a_model_that_cannot_serve_is_told(yolox: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    with pytest.raises(UserError, match=r"yolox\.model: .*no such file; expected a YOLOX model in ONNX format"):
        choose("objects", {"extractor": "yolox", "yolox": {"model": str(tmp_path / "no.onnx")}}).require()
    (tmp_path / "bad.onnx").write_bytes(b"no model at all")
    with pytest.raises(UserError, match=r"bad\.onnx: not an ONNX model, or cut short"):
        small(tmp_path / "bad.onnx")
    with pytest.raises(UserError, match=r"gives 84 × 8 numbers, expected 84 × 85.*list the model's classes"):
        detector(yolox).extract(pictures[:1])
    loud = write_yolox(tmp_path / "loud.onnx", loudness=100.0)
    with pytest.raises(ValueError, match="not finite"):
        small(loud).extract(pictures[:1])


def test_it_can_be_closed_and_used_again(yolox: Path, pictures: list[Image.Image]) -> None:
    extractor = small(yolox)
    found = extractor.extract(pictures)
    extractor.close()
    assert extractor.extract(pictures) == found


@pytest.mark.real_data
def test_people_are_found_in_real_pictures(real_data: Path) -> None:
    folder = real_data / "pairs29" / "images"

    def seen(name: str) -> list[ObjectTag]:
        with Image.open(folder / name) as picture:
            [tags] = detector(real_data / "detector" / "yolox_nano.onnx").extract([picture.convert("RGB")])
        return tags

    def labels(name: str) -> list[str]:
        return [tag.label for tag in seen(name)]

    basketball = labels("16_05_01_517.jpg")
    assert basketball.count("person") >= 3
    assert "sports ball" in basketball
    assert labels("102.jpg").count("person") >= 3, "a concert"
    for tag in seen("16_05_01_517.jpg"):
        assert tag.score is not None
        assert 0.3 <= tag.score <= 1
