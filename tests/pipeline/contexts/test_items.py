"""Records of what extractors find, and the context string made of them."""

import json
from pathlib import Path

import pytest

from pipeline.contexts.template import render
from pipeline.core.errors import UserError
from pipeline.core.records import ITEMS, Caption, ObjectTag, TextLine, read_contexts
from pipeline.settings.params import ObjectContextParams, TextContextParams, ViewsParams


def views(
    kinds: tuple[str, ...] = ("objects", "captions", "ocr"), separator: str = " . ", **changes: object
) -> ViewsParams:
    return ViewsParams(
        kinds=list(kinds),
        separator=separator,
        objects=ObjectContextParams(**{"max": 12, **changes}),
        captions=TextContextParams(max=1),
        ocr=TextContextParams(max=8),
    )


TAGS = [
    ObjectTag("dog", "black", 0.9),
    ObjectTag("Dog", "Black", 0.8),
    ObjectTag("man", None, 0.7),
    ObjectTag("dog", None, None),
    ObjectTag("cat", "white", 0.3),
]


def test_items_go_through_json_unchanged() -> None:
    for kind, items in {
        "objects": [ObjectTag("dog"), ObjectTag("dog", "black", 0.5, (0.0, 1.5, 2.0, 3.0))],
        "captions": [Caption("a dog"), Caption("ein Hündchen", 0.25)],
        "ocr": [TextLine("STOP"), TextLine("STOP", 0.9, ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))],
    }.items():
        for item in items:
            row = json.loads(json.dumps(item.to_row()))
            assert ITEMS[kind].from_row(row) == item  # type: ignore[index]
    assert ObjectTag("dog").to_row() == {"label": "dog", "attribute": None, "score": None, "box": None}
    assert Caption("x").to_row() == {"text": "x", "score": None}
    assert TextLine("x").to_row() == {"text": "x", "score": None, "polygon": None}


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("objects", {"attribute": "x"}, "label is missing"),
        ("objects", {"label": "x", "colour": "red"}, "colour is unknown"),
        ("objects", {"label": 3}, "expected text"),
        ("objects", {"label": "x", "box": [1, 2, 3]}, "expected 4 numbers"),
        ("objects", {"label": "x", "score": "high"}, "expected a number"),
        ("objects", {"label": "x", "score": True}, "expected a number"),
        ("objects", {"label": "\ud83d"}, "label: holds half a character"),
        ("objects", {"label": "x", "attribute": "big \udc36"}, "attribute: holds half a character"),
        ("captions", ["a dog"], "expected an object"),
        ("captions", {"text": "hi \ud83d"}, "text: holds half a character"),
        ("ocr", {"text": "\udfff"}, "text: holds half a character"),
        ("captions", {"text": "x", "score": float("nan")}, "expected a number"),
        ("ocr", {"text": "x", "polygon": [[0, 0], [1, 1]]}, "expected 4 points"),
        ("ocr", {"text": "x", "polygon": [[0], [1], [2], [3]]}, "expected 2 numbers"),
    ],
)
def test_a_malformed_item_is_named(kind: str, row: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ITEMS[kind].from_row(row)  # type: ignore[index]


def test_read_contexts_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    good = {"image": "a.jpg", "sha256": None, "status": "missing", "error": "gone", "captions": []}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "captions": [{"text": "x", "score": 0.5}]}) + "\n")
    assert [context.items for context in read_contexts(path, "captions")] == [[], [Caption("x", 0.5)]]
    for bad in ({**good, "captions": [{}]}, {**good, "captions": None}, {"image": "a.jpg"}):
        path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(UserError, match=r"captions\.jsonl:2: "):
            list(read_contexts(path, "captions"))


def test_kinds_stand_in_the_order_of_the_template() -> None:
    parts = {
        "objects": [ObjectTag("dog", "black", 0.9)],
        "captions": [Caption("a dog runs", 0.8)],
        "ocr": [TextLine("STOP", 0.9), TextLine("NOW", 0.8)],
    }
    assert render(views(), **parts) == "black dog . a dog runs . STOP NOW"
    assert render(views(("ocr", "objects"), " | "), **parts) == "STOP NOW | black dog"
    assert render(views(("captions",)), **parts) == "a dog runs"
    assert render(views(), captions=[Caption("a dog")], ocr=[]) == "a dog", "no separator around a kind without items"
    assert render(views()) == ""
    assert render(views(()), **parts) == ""


def test_duplicates_are_dropped_counted_or_kept() -> None:
    assert render(views(duplicates="drop"), TAGS) == "black dog man dog white cat"
    assert render(views(duplicates="count"), TAGS) == "2 black dog man dog white cat"
    assert render(views(duplicates="keep"), TAGS) == "black dog Black Dog man dog white cat"
    assert render(views(duplicates="count", attributes=False), TAGS) == "3 dog man cat"


def test_at_most_max_distinct_items_stand() -> None:
    assert render(views(max=2), TAGS) == "black dog man"
    assert render(views(max=2, duplicates="keep"), TAGS) == "black dog Black Dog"
    assert render(views(), captions=[Caption("one"), Caption("two")]) == "one"


def test_scores_below_the_threshold_are_left_out_and_no_score_passes() -> None:
    assert render(views(min_score=0.7, separator=" ", duplicates="keep"), TAGS) == "black dog Black Dog man dog"
    assert render(views(min_score=0.95), TAGS) == "dog"


def test_separators_are_the_templates() -> None:
    template = ViewsParams(
        kinds=["objects", "ocr"],
        separator=" </s> ",
        objects=ObjectContextParams(max=3, separator=", "),
        captions=TextContextParams(max=1),
        ocr=TextContextParams(max=3, separator=" / "),
    )
    assert render(template, [ObjectTag("a"), ObjectTag("b")], [], [TextLine("C"), TextLine("D")]) == "a, b </s> C / D"


def test_a_context_is_one_clean_line() -> None:
    dirty = [TextLine("two\nlines"), TextLine(" \t "), TextLine("a\0b\u2028c\x85d\ufeff"), TextLine("\u3000wide\u00a0")]
    assert render(views(), ocr=dirty) == "two lines a b c d wide"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert render(views(), ocr=[TextLine(family)]) == family, "joiners are what some emoji are made with"
    assert "\n" not in render(views(separator="\n"), [ObjectTag("a")], [Caption("b")])
