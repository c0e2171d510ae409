"""What the adapters of transformers' models give: what transformers itself gives, sorted, cut and scored."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.extractors.registry import choose
from pipeline.images.manifest import manifest
from pipeline.settings.params import ExecutionParams, ImagesParams
from tests.pipeline.extractors.cases import captions, make, ready, tags


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
