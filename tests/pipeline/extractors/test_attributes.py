"""Attributes of tags, whatever found them: what CLIP and SigLIP say of each box, and what is left alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import ObjectTag
from pipeline.core.store import digest
from pipeline.extractors.attributes import AttributesOptions, WithAttributes
from pipeline.extractors.registry import choose
from tests.pipeline.extractors.cases import CPU, make, ready

NAMES = ["red", "blue", "snow"]


class Given:
    """A detector that finds what it was told, in every picture."""

    def __init__(self, *tags: ObjectTag) -> None:
        self.tags = tags

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "given"}

    def extract(self, images: Sequence[Image.Image]) -> list[list[ObjectTag]]:
        return [list(self.tags) for _ in images]


def attributed(model: Path, pictures: Sequence[Image.Image], *tags: ObjectTag, **options: Any) -> list[list[ObjectTag]]:
    chosen = AttributesOptions(model=str(model), **{"labels": NAMES, "threshold": 0.0, **options})
    extractor = WithAttributes(Given(*tags), chosen, CPU)
    extractor.load()
    return extractor.extract(pictures)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_each_box_gets_what_the_model_finds_likeliest(
    name: str, request: pytest.FixtureRequest, pictures: list[Image.Image]
) -> None:
    """Against the model's own forward on one crop and all texts."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = request.getfixturevalue(name)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    tags = [
        ObjectTag("dog", None, 0.9, (0, 0, 30, 30)),
        ObjectTag("ball", None, 0.8, (10.4, 5.2, 29.6, 40.0)),
        ObjectTag("dog", None, 0.7, (4, 4, 12, 20)),
    ]
    seen = set()
    for picture, found in zip(pictures[:6], attributed(folder, pictures[:6], *tags), strict=True):
        for tag, result in zip(tags, found, strict=True):
            assert tag.box is not None
            x0, y0, x1, y1 = tag.box
            crop = picture.crop((int(x0), int(y0), min(round(x1), picture.width), min(round(y1), picture.height)))
            texts = [f"a photo of a {one} {tag.label}" for one in NAMES] + [f"a photo of a {tag.label}"]
            inputs = tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
            kept = ("input_ids", "attention_mask") if name == "clip" else ("input_ids",)
            with torch.no_grad():
                logits = model(
                    **processor(images=crop, return_tensors="pt"), **{key: inputs[key] for key in kept}
                ).logits_per_image[0]
            best = int(logits.argmax())
            assert result == ObjectTag(tag.label, [*NAMES, None][best], tag.score, tag.box)
            seen.add(result.attribute)
    assert len(seen) > 1


def test_a_tag_that_has_one_or_no_box_stays_as_it_is(clip: Path, pictures: list[Image.Image]) -> None:
    tags = [
        ObjectTag("dog", "old", 0.9, (0, 0, 30, 30)),
        ObjectTag("cat"),
        ObjectTag("ball", None, 0.5, (5, 5, 5, 9)),
        ObjectTag("ball", None, 0.5, (5, 5, 6, 50)),
    ]
    assert attributed(clip, pictures[:2], *tags) == [tags, tags]


def test_an_attribute_that_is_not_likely_is_left_out(clip: Path, pictures: list[Image.Image]) -> None:
    tag = ObjectTag("dog", None, 0.9, (0, 0, 30, 30))
    assert attributed(clip, pictures[:8], tag, threshold=1.0) == [[tag]] * 8


def test_it_is_off_by_default_and_in_the_fingerprint_when_on(clip: Path, yolox: Path, siglip: Path) -> None:
    section = {"extractor": "yolox", "yolox": {"model": str(yolox)}}
    plain = make(("objects", section)).fingerprint()
    assert make(("objects", {**section, "attributes": {"model": None, "labels": ["red"]}})).fingerprint() == plain
    on = {"model": str(clip), "labels": NAMES}
    changes: list[dict[str, Any]] = [
        {},
        {"labels": ["red"]},
        {"template": "a {}"},
        {"threshold": 0.9},
        {"dtype": "bfloat16"},
        {"model": str(siglip)},
    ]
    found = {digest(make(("objects", {**section, "attributes": {**on, **change}})).fingerprint()) for change in changes}
    assert len(found | {digest(plain)}) == 1 + len(changes)


def test_mistakes_are_named(yolos: Path, yolox: Path, pictures: list[Image.Image]) -> None:
    section = {"extractor": "yolox", "yolox": {"model": str(yolox), "classes": ["a", "b", "c"]}}
    with pytest.raises(UserError, match=r"objects\.attributes\.label: unknown key; expected one of model, revision"):
        choose("objects", {**section, "attributes": {"label": ["red"]}})
    with pytest.raises(UserError, match=r"objects\.attributes\.template.*expected a text with \{\} in it once"):
        choose("objects", {**section, "attributes": {"template": "red"}})
    with pytest.raises(UserError, match="no such folder"):
        choose("objects", {**section, "attributes": {"model": "checkpoints/not/here"}}).require()
    with pytest.raises(UserError, match="reads no pictures to find attributes in"):
        choose("objects", {"extractor": "precomputed", "attributes": {"model": "x"}}).create()
    with pytest.raises(UserError, match=r"model_type is yolos; objects\.attributes takes clip, siglip"):
        ready(("objects", {**section, "attributes": {"model": str(yolos)}})).extract(pictures[:1])


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_a_label_too_long_for_the_model_is_named_and_not_cut(
    name: str, request: pytest.FixtureRequest, pictures: list[Image.Image]
) -> None:
    folder = request.getfixturevalue(name)
    tag = ObjectTag("dog " * 20, None, 0.9, (0, 0, 30, 30))
    with pytest.raises(UserError, match=r"objects\.attributes: 'a photo of a red dog dog .* longer than the 16 that"):
        attributed(folder, pictures[:1], tag)
