"""Kinds of context: their items go through JSON unchanged, and what is no item is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Caption, Context, Note, ObjectTag, TextLine


@pytest.mark.parametrize(
    ("kind", "items", "rows"),
    [
        (
            "objects",
            [ObjectTag("dog"), ObjectTag("dog", "black", 0.5, (0.0, 1.5, 2.0, 3.0))],
            [
                {"label": "dog", "attribute": None, "score": None, "box": None},
                {"label": "dog", "attribute": "black", "score": 0.5, "box": [0.0, 1.5, 2.0, 3.0]},
            ],
        ),
        ("captions", [Caption("ein Hündchen", 0.25)], [{"text": "ein Hündchen", "score": 0.25}]),
        (
            "knowledge",
            [Note("Jordan (person)", 0.5, "train")],
            [{"text": "Jordan (person)", "score": 0.5, "source": "train"}],
        ),
        (
            "ocr",
            [TextLine("STOP"), TextLine("STOP", 0.9, ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))],
            [
                {"text": "STOP", "score": None, "polygon": None},
                {"text": "STOP", "score": 0.9, "polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]},
            ],
        ),
    ],
)
def test_items_go_through_json_unchanged(kind: str, items: list[Any], rows: list[Any]) -> None:
    assert json.loads(TEXT_KINDS[kind].dump(items)) == rows
    assert TEXT_KINDS[kind].load(rows) == items


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("objects", {"attribute": "x"}, "label: missing"),
        ("objects", {"label": "x", "colour": "red"}, "colour: unknown key"),
        ("objects", {"label": 3}, "label: expected a valid string, found 3"),
        ("objects", {"label": "x", "box": [1, 2, 3]}, r"box\.3: missing"),
        ("objects", {"label": "x", "score": "high"}, "valid number"),
        ("objects", {"label": "x", "score": True}, "score: expected a valid number"),
        ("objects", {"label": "\ud83d"}, "unpaired surrogate"),
        ("objects", {"label": "x", "attribute": "big \udc36"}, "unpaired surrogate"),
        ("captions", ["a dog"], "expected"),
        ("captions", {"text": "x", "score": float("nan")}, "not JSON compliant"),
        ("ocr", {"text": "x", "polygon": [[0, 0], [1, 1]]}, r"polygon: .* at least 4 items"),
        ("ocr", {"text": "x", "polygon": [[0], [1], [2], [3]]}, r"polygon\.0\.1: missing"),
    ],
)
def test_a_malformed_item_is_named(kind: str, row: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TEXT_KINDS[kind].load([row])


def test_an_item_that_cannot_be_written_is_refused() -> None:
    for item in (Caption("a \ud83d"), Caption("a", float("nan")), Caption("a", "high")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"surrogate|finite|number"):
            TEXT_KINDS["captions"].dump([item])
    with pytest.raises(TypeError, match="expected a list of Caption"):
        TEXT_KINDS["captions"].dump([TextLine("a")])


def test_reading_contexts_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    good: dict[str, Any] = {"image": "a.jpg", "sha256": None, "status": "missing", "error": "gone", "captions": []}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, "captions": [{"text": "x", "score": 0.5}]}) + "\n")
    assert [context.items for context in TEXT_KINDS["captions"].read(path)] == [[], [Caption("x", 0.5)]]
    broken: list[dict[str, Any]] = [{**good, "captions": [{}]}, {**good, "captions": None}, {"image": "a.jpg"}]
    for bad in broken:
        path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(UserError, match=r"captions\.jsonl:2: "):
            list(TEXT_KINDS["captions"].read(path))


def test_rows_about_posts_say_which_post_of_which_split(tmp_path: Path) -> None:
    kind, path = TEXT_KINDS["knowledge"], tmp_path / "knowledge.jsonl"
    with kind.writing(path, None) as sink:
        sink.add({"id": "1", "split": "dev", "more": 3}, "ok", None, kind.dump([Note("a")]))
        sink.add({"id": "1", "split": None}, "failed", "gone", None)
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    note = {"text": "a", "score": None, "source": None}
    assert written[0] == {"id": "1", "split": "dev", "status": "ok", "error": None, "knowledge": [note]}
    assert list(kind.read(path)) == [
        Context("1", "dev", "ok", None, [Note("a")]),
        Context("1", None, "failed", "gone", []),
    ]
