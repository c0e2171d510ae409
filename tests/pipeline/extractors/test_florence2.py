"""What Florence-2 writes, as captions, boxes and lines in pixels of the upright picture."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import Caption, ObjectTag
from pipeline.extractors.florence2 import Florence2Objects, Florence2Ocr
from tests.pipeline.extractors.cases import ready

SIZE = (300, 200)


@pytest.fixture(scope="module")
def objects(florence2: Path) -> Florence2Objects:
    return ready(("objects", _section(florence2, max_objects=3)))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def ocr(florence2: Path) -> Florence2Ocr:
    return ready(("ocr", _section(florence2)))  # type: ignore[return-value]


def _section(folder: Path, **options: Any) -> dict[str, Any]:
    options = {"model": str(folder), "num_beams": 1, "max_new_tokens": 11, **options}
    return {"extractor": "florence2", "florence2": options}


def answered(extractor: Any, text: str) -> Any:
    """What the extractor makes of an answer about a picture of SIZE."""
    return extractor._read(extractor._tokenizer(text, add_special_tokens=False)["input_ids"], 0.5, SIZE)


def places(*values: int) -> str:
    return "".join(f"<loc_{value}>" for value in values)


def transformers_own(extractor: Any, text: str, task: str) -> Any:
    """The answer as the library's own parser reads it, whose numbers are whole pixels, rounded down."""
    from transformers.models.florence2.processing_florence2 import Florence2PostProcessor

    tasks: dict[str, dict[str, Any]] = {"ocr": {}, "description_with_bboxes": {}}
    return Florence2PostProcessor(tasks, extractor._tokenizer)(text, image_size=SIZE, parse_tasks=task)[task]


def test_boxes_are_those_that_transformers_reads(objects: Florence2Objects) -> None:
    text = f"<s>dog{places(37, 74, 481, 999)}red ball{places(0, 0, 111, 148)}{places(185, 222, 259, 296)}</s>"
    found = answered(objects, text)
    assert [(tag.label, tag.attribute, tag.score) for tag in found] == [
        ("dog", None, None),
        ("red ball", None, None),
        ("red ball", None, None),
    ]
    assert found[0].box == pytest.approx((11.25, 14.9, 144.45, 199.9), abs=0.06), "the middles of thousandths"
    for tag, own in zip(found, transformers_own(objects, text, "description_with_bboxes"), strict=True):
        assert tag.label == own["cat_name"]
        assert list(tag.box) == pytest.approx(own["bbox"], abs=1)


def test_corners_are_those_that_transformers_reads(ocr: Florence2Ocr) -> None:
    corners = (37, 74, 481, 74, 481, 148, 37, 148)
    text = f"</s><s>the dog{places(*corners)}sits{places(*(value + 444 for value in corners))}"
    found = answered(ocr, text)
    assert [line.text for line in found] == ["the dog", "sits"]
    for line, own in zip(found, transformers_own(ocr, text, "ocr"), strict=True):
        assert [value for corner in line.polygon for value in corner] == pytest.approx(own["quad_box"], abs=1)


def test_lines_are_in_reading_order(ocr: Florence2Ocr) -> None:
    below, above = (0, 814, 999, 814, 999, 888, 0, 888), (0, 37, 999, 37, 999, 111, 0, 111)
    assert [line.text for line in answered(ocr, f"beach{places(*below)}snow{places(*above)}")] == ["snow", "beach"]


def test_what_an_answer_leaves_open_is_left_out(objects: Florence2Objects, ocr: Florence2Ocr) -> None:
    whole = places(0, 37, 74, 111)
    assert answered(objects, f"{whole}dog{whole}{places(37, 74)}cat") == [
        ObjectTag("dog", None, None, (0.1, 7.5, 22.3, 22.3))
    ]
    assert answered(objects, f"cat{places(74, 37, 0, 111)}") == [ObjectTag("cat")], "a label, and a box of nothing"
    assert len(answered(objects, f"dog{whole * 5}")) == 3, "max_objects"
    assert answered(ocr, f"{whole}{whole}the dog{whole}{places(0, 37, 74)}") == []
    assert answered(objects, "") == answered(ocr, "</s>") == []


def test_a_captions_score_is_the_geometric_mean_of_its_tokens(florence2: Path, pictures: list[Image.Image]) -> None:
    """Against the probabilities that the model gives the whole answer in one pass."""
    import torch
    from transformers import AutoImageProcessor, Florence2ForConditionalGeneration

    model = Florence2ForConditionalGeneration.from_pretrained(florence2).eval()
    processor = AutoImageProcessor.from_pretrained(florence2)
    for beams in (1, 3):
        extractor: Any = ready(("captions", _section(florence2, num_beams=beams, max_new_tokens=4)))
        for picture in pictures[:2]:
            prepared = extractor.prepare(picture)
            [(tokens, score)] = extractor._generate(prepared.pixels[None])
            with torch.no_grad():
                logits = model(
                    **processor(images=picture, return_tensors="pt"),
                    input_ids=extractor._prompt,
                    decoder_input_ids=torch.tensor([[3, *tokens[:-1]]]),
                ).logits
            own = logits[0].log_softmax(-1)[range(len(tokens)), tokens]
            assert score == pytest.approx(float(own.mean().exp()), abs=2e-4)
            assert extractor.extract([picture]) == [[Caption(extractor._text(tokens), score)]]


def test_each_task_asks_otherwise(florence2: Path, pictures: list[Image.Image]) -> None:
    for kind, tasks in {
        "captions": ("caption", "detailed_caption", "more_detailed_caption"),
        "objects": ("od", "dense_region_caption"),
    }.items():
        found = [ready((kind, _section(florence2, task=task))).extract(pictures[:4]) for task in tasks]
        assert all(one != other for place, one in enumerate(found) for other in found[:place])


def test_places_are_in_pixels_of_the_picture_itself(ocr: Florence2Ocr) -> None:
    """Of two pictures that are alike to the model, the larger has its lines farther apart."""
    [found], [expected] = (ocr.extract([Image.new("RGB", size, "navy")]) for size in ((640, 192), (64, 64)))
    assert found
    for line, other in zip(found, expected, strict=True):
        for (x, y), (other_x, other_y) in zip(line.polygon or (), other.polygon or (), strict=True):
            assert (x, y) == pytest.approx((10 * other_x, 3 * other_y), abs=1)


def test_what_it_cannot_do_is_said(florence2: Path, blip: Path) -> None:
    with pytest.raises(UserError, match=r"its model_type is blip; ocr\.florence2 takes florence2, such as florence-"):
        ready(("ocr", _section(blip)))
    with pytest.raises(UserError, match=r"captions\.florence2\.max_new_tokens: found 65; .* has room for 64"):
        ready(("captions", _section(florence2, max_new_tokens=65)))


def test_numbers_that_are_not_finite_are_no_answer(florence2: Path, pictures: list[Image.Image]) -> None:
    extractor: Any = ready(("objects", _section(florence2)))
    extractor._model.model.vision_tower.convs[0].conv.weight.data[:] = float("nan")
    for beams in (1, 2):
        extractor._options = extractor._options.model_copy(update={"num_beams": beams})
        with pytest.raises(ValueError, match="not finite"):
            extractor.extract(pictures[:1])
