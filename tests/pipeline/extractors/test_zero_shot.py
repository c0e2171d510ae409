"""What detectors that take labels give: what transformers itself gives, of the labels asked for."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.extractors.base import Extractor, LabelledExtractor, LabelledPicture, MeteredExtractor, PreparingExtractor
from tests.pipeline.extractors.cases import make, ready, same

LABELS = ["dog", "red ball", "cat"]


def found_by_labels(folder: Path, pictures: list[Image.Image], **options: Any) -> list[list[Any]]:
    section = {"extractor": "zero_shot", "zero_shot": {"model": str(folder), "labels": LABELS, **options}}
    return [list(found) for found in ready(("objects", section)).extract(pictures)]


@pytest.mark.parametrize(
    ("labels", "label_of"),
    [
        (["dog", "red ball", "cat"], [None, "dog", None, "red ball", "red ball", None, "cat", None, None]),
        (["dog", "red", "cat"], [None, "dog", None, "red", None, "cat", None, None]),
    ],
)
def test_grounding_dinos_tags_are_those_of_transformers(
    labels: list[str], label_of: list[str | None], grounding_dino: Path, pictures: list[Image.Image]
) -> None:
    """Boxes and the labels' own sub-tokens, against the model's forward on the text as one string."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

    processor = AutoImageProcessor.from_pretrained(grounding_dino)
    tokenizer = AutoTokenizer.from_pretrained(grounding_dino)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(grounding_dino).eval()
    text = tokenizer(". ".join(labels) + ".", return_tensors="pt")
    labels_seen = set()
    everything = found_by_labels(grounding_dino, pictures[:4], labels=labels, threshold=0.3)
    for picture, found in zip(pictures[:4], everything, strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"), **text)
        expected = []
        for logits, (x, y, width, height) in zip(outputs.logits[0].sigmoid(), outputs.pred_boxes[0], strict=True):
            score, label = max((float(logits[at]), label) for at, label in enumerate(label_of) if label)
            if score > 0.3:
                corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                expected.append(
                    (
                        score,
                        label,
                        [
                            max(0.0, min(float(one), 1.0)) * side
                            for one, side in zip(corners, picture.size * 2, strict=True)
                        ],
                    )
                )
        expected.sort(reverse=True)
        assert len(found) == len(expected) > 0
        for tag, (score, label, box) in zip(found, expected, strict=True):
            assert (tag.label, tag.score) == (label, pytest.approx(score, abs=2e-4))
            assert tag.box == pytest.approx(box, abs=0.11)
        labels_seen |= {tag.label for tag in found}
    assert labels_seen == ({"red ball"} if "red ball" in labels else {"red", "cat"}), "the model is not trained"


def test_owls_tags_are_those_of_transformers(owlv2: Path, pictures: list[Image.Image]) -> None:
    """The labels encoded once for all give what the model's forward gives, which encodes them for every picture."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

    processor = AutoImageProcessor.from_pretrained(owlv2)
    text = AutoTokenizer.from_pretrained(owlv2)(
        [f"a photo of a {label}" for label in LABELS], padding="max_length", max_length=16, return_tensors="pt"
    )
    text.pop("token_type_ids", None)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(owlv2).eval()
    labels_seen = set()
    for picture, found in zip(pictures[:4], found_by_labels(owlv2, pictures[:4], threshold=0.3), strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"), **text)
        expected = processor.post_process_object_detection(outputs, 0.3, [(picture.height, picture.width)])[0]
        order = expected["scores"].argsort(descending=True).tolist()
        assert len(found) == len(order) > 0
        assert [tag.score for tag in found] == pytest.approx(expected["scores"][order].tolist(), abs=2e-4)
        limits = torch.tensor([picture.width, picture.height] * 2)
        for tag, at in zip(found, order, strict=True):
            assert tag.label == LABELS[int(expected["labels"][at])]
            box = torch.minimum(expected["boxes"][at].clamp(min=0), limits)
            assert tag.box == pytest.approx(box.tolist(), abs=0.11)
        labels_seen |= {tag.label for tag in found}
    assert len(labels_seen) > 1


def test_zero_shots_mistakes_are_named(
    grounding_dino: Path, owlv2: Path, yolos: Path, pictures: list[Image.Image]
) -> None:
    with pytest.raises(UserError, match=r"35 sub-tokens.*takes 32; the first 8 labels fit"):
        found_by_labels(grounding_dino, pictures[:1], labels=["red dog runs"] * 4 + ["red dog"] * 5 + ["cat"])
    with pytest.raises(UserError, match=r"red red.* is \d+ sub-tokens, longer than the 16"):
        found_by_labels(owlv2, pictures[:1], labels=["dog", "red " * 14])
    with pytest.raises(UserError, match=r"model_type is yolos; objects\.zero_shot takes grounding-dino"):
        found_by_labels(yolos, pictures[:1])
    for bad in ([], ["a dog. a cat"], [" "]):
        with pytest.raises(UserError, match=r"objects\.zero_shot\.labels"):
            found_by_labels(owlv2, pictures[:1], labels=bad)
    with pytest.raises(UserError, match=r"template: .*expected a text with \{\} in it once"):
        found_by_labels(owlv2, pictures[:1], template="a photo")


@pytest.mark.parametrize("name", ["grounding_dino", "owlv2"])
def test_labels_of_its_own_for_each_picture_give_what_they_give_as_params(
    name: str, request: pytest.FixtureRequest, pictures: list[Image.Image]
) -> None:
    """Whatever is beside it in the batch: another number of labels, longer ones, none."""
    folder, threshold = request.getfixturevalue(name), {"grounding_dino": 0.3, "owlv2": 0.3}[name]
    extractor = from_text(folder, threshold=threshold)
    labels = [("dog", "red ball", "cat"), (), ("snow",), ("a dog runs on the beach", "cat"), ("ball",)]
    shown = [LabelledPicture(picture, labels[at % len(labels)]) for at, picture in enumerate(pictures[:10])]
    together = extractor.extract(shown)  # type: ignore[arg-type]
    assert same(together, [extractor.extract([each])[0] for each in shown])  # type: ignore[list-item]
    for wanted in labels:
        own = [at for at, each in enumerate(shown) if each.labels == wanted]
        if not wanted:
            assert [together[at] for at in own] == [[]] * len(own)
            continue
        as_params = found_by_labels(folder, [pictures[at] for at in own], labels=list(wanted), threshold=threshold)
        assert any(as_params), "nothing found, nothing compared"
        assert same([together[at] for at in own], as_params)


def test_phrases_that_a_model_has_no_room_for_are_left_out(
    grounding_dino: Path, owlv2: Path, pictures: list[Image.Image]
) -> None:
    many = tuple(f"{one} {other}" for one in ("red", "blue", "snow") for other in ("dog", "cat", "ball", "beach"))
    dino = from_text(grounding_dino)
    assert isinstance(dino, PreparingExtractor)
    found = dino.prepare(LabelledPicture(pictures[0], ("\u200b", *many)))
    assert found.labels == many[:10], "2 + 10 · (2 + 1) = 32 sub-tokens"
    owl = from_text(owlv2)
    assert isinstance(owl, PreparingExtractor)
    assert isinstance(owl, MeteredExtractor)
    found = owl.prepare(LabelledPicture(pictures[0], ("dog", "red " * 14, "cat")))
    assert found.labels == ("dog", "cat")
    assert owl.used() == "1 phrases left out, as the model has no room for them"


def test_labels_are_the_phrases_of_the_posts_that_show_a_picture(
    grounding_dino: Path, clip: Path, pictures: list[Image.Image]
) -> None:
    posts = [["My", "dog", "at", "the", "beach", "!"], ["a", "Dog", "in", "#RedSnow"]]
    options = {"model": str(grounding_dino), "labels": "from_text", "max_labels": 3, "threshold": 0.05}
    section = {"extractor": "zero_shot", "zero_shot": options}
    attributes = {"model": str(clip), "labels": ["red", "blue"], "threshold": 0.1}
    for extractor in (ready(("objects", section)), ready(("objects", {**section, "attributes": attributes}))):
        assert isinstance(extractor, LabelledExtractor)
        assert extractor.labels_of(posts) == ("dog", "beach", "Red Snow")
        assert extractor.labels_of([]) == ()
        reader: Any = extractor
        [tags] = reader.extract([LabelledPicture(pictures[0], ("dog", "beach"))])
        assert {tag.label for tag in tags} <= {"dog", "beach"}
        assert tags
        with pytest.raises(ValueError, match="expected a picture with labels"):
            reader.extract(pictures[:1])
    told = make(("objects", {"extractor": "zero_shot", "zero_shot": {**options, "labels": ["dog"]}}))
    assert isinstance(told, LabelledExtractor)
    assert told.labels_of(posts) is None


def test_the_number_of_phrases_is_not_in_the_fingerprint(grounding_dino: Path) -> None:
    """They come with each picture, and so are in the key of its result."""
    assert from_text(grounding_dino, max_labels=3).fingerprint() == from_text(grounding_dino).fingerprint()
    assert from_text(grounding_dino).fingerprint()["labels"] == "from_text"


def from_text(folder: Path, **options: Any) -> Extractor:
    section = {"extractor": "zero_shot", "zero_shot": {"model": str(folder), "labels": "from_text", **options}}
    return ready(("objects", section))
