"""What detectors that take labels give: what transformers itself gives, of the labels asked for."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from tests.pipeline.extractors.cases import ready

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
