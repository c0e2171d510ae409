"""What people label in Label Studio comes back on the tokens that a task was made of, emoji and RTL included."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.labels import entities
from pipeline.core.records import FoundEntity, Prediction
from pipeline.corpus.dataset import each_of_split
from pipeline.corpus.label_studio import configuration, read, task
from pipeline.settings.params import DataParams

WORDS = [
    *("Rome", "\U0001f468\u200d\U0001f469", "\U0001f1eb\U0001f1f7", "\u0644\u0646\u062f\u0646"),
    *("\u200f", "\u00a0", "e\u0301", "@", "\u6771"),
]
TOKENS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=10)


def predicted(tokens: list[str], labels: list[str]) -> Prediction:
    found = [
        FoundEntity(start, end, kind, " ".join(tokens[start:end]), 0.75)
        for start, end, kind in entities(labels, "conlleval")
    ]
    return Prediction("7", tokens, None, labels, found, "")


def accepted(made: dict[str, Any], utf16: bool = False, number: int = 1) -> dict[str, Any]:
    """A task as Label Studio exports it once somebody has accepted the prediction."""
    result = json.loads(json.dumps(made["predictions"][0]["result"]))
    text = made["data"]["text"]
    for region in result:
        value = region["value"]
        if utf16:
            value |= {key: len(text[: value[key]].encode("utf-16-le")) // 2 for key in ("start", "end")}
    other = {"type": "choices", "from_name": "c", "to_name": "text", "value": {"choices": ["good"]}}
    return {"id": number, "data": made["data"], "annotations": [{"id": 1, "result": [*result, other]}]}


def write(folder: Path, tasks: Any) -> Path:
    file = folder / "export.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    return file


@pytest.mark.parametrize("utf16", [False, True])
@given(tokens=TOKENS, data=st.data())
def test_no_label_shifts_on_the_round_trip(
    tokens: list[str], data: st.DataObject, utf16: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokens = list(dict.fromkeys(tokens)) if utf16 else tokens  # else a shifted text may look the same
    labels = data.draw(
        st.lists(st.sampled_from(["O", "B-LOC", "I-LOC", "B-PER"]), min_size=len(tokens), max_size=len(tokens))
    )
    made = task(predicted(tokens, labels), "", ["a b.jpg"], "http://x/", 0.5)
    odd: Counter[str] = Counter()
    [post] = read(write(tmp_path_factory.mktemp("export"), [accepted(made, utf16)]), odd=odd)
    assert (post.id, post.tokens, post.images) == ("7", tokens, ["a b.jpg"])
    assert entities(post.labels or [], "strict") == entities(labels, "conlleval")
    assert odd["spans_snapped"] == 0


def test_a_task_shows_pictures_context_and_what_was_found() -> None:
    made = task(
        predicted(["\U0001f600", "New", "York"], ["O", "B-LOC", "I-LOC"]), "a street", ["a b.jpg"], "/d?=", 0.25
    )
    assert made["data"]["pictures"] == ["/d?=a%20b.jpg"]
    assert made["data"]["context"] == "a street"
    [prediction] = made["predictions"]
    [region] = prediction["result"]
    assert region["value"] == {"start": 2, "end": 10, "text": "New York", "labels": ["LOC"]}
    assert (region["score"], prediction["score"]) == (0.75, 0.8)
    interface = ElementTree.fromstring(  # noqa: S314 - made here
        configuration(["LOC", 'a"<b'])
    )
    assert [label.get("value") for label in interface.iter("Label")] == ["LOC", 'a"<b']
    assert region["from_name"] == next(interface.iter("Labels")).get("name")
    assert region["to_name"] == next(interface.iter("Text")).get("name")


def test_what_nobody_labelled_is_left_out_and_the_last_of_several_annotations_is_read(tmp_path: Path) -> None:
    made = task(predicted(["Rome"], ["B-LOC"]), "", [], "", 0.0)
    untouched = {"id": 1, "data": made["data"], "predictions": made["predictions"], "annotations": []}
    twice = accepted(made)
    twice["annotations"][0]["updated_at"] = "2026-01-02T00:00:00Z"
    twice["annotations"].append({"result": [], "updated_at": "2026-01-01T00:00:00Z"})
    twice["annotations"].append({"result": [], "was_cancelled": True, "updated_at": "2026-01-03T00:00:00Z"})
    write(tmp_path, [untouched, twice])
    odd: Counter[str] = Counter()
    data = DataParams(root=tmp_path, format="label_studio", train=["export.json"])
    assert [post.labels for post in list(each_of_split(data, "train", odd))] == [["B-LOC"]]
    assert (odd["tasks_without_annotation"], odd["further_annotations"]) == (1, 1)


def test_a_task_of_ones_own_has_its_tokens_made_here(tmp_path: Path) -> None:
    value = {"start": 8, "end": 14, "labels": ["LOC"]}
    region = {"type": "labels", "value": value}
    own = {"id": 3, "data": {"text": "Finally Jordan!"}, "annotations": [{"result": [region]}]}
    [post] = read(write(tmp_path, [own]), types={"LOC": "GPE"})
    assert (post.id, post.tokens, post.labels) == ("3", ["Finally", "Jordan", "!"], ["O", "B-GPE", "O"])
    assert post.images == ["3.jpg"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": {"start": 0, "end": 4, "text": "Bonn", "labels": ["LOC"]}}, r"'Bonn' is not at 0 to 4 of the text"),
        ({"value": {"start": 0, "end": 4, "labels": ["LOC", "ORG"]}}, r"a region with 2 labels \(LOC, ORG\)"),
        ({"value": {"start": 0, "end": 44, "labels": ["LOC"]}}, "is no part of the text"),
    ],
)
def test_a_region_that_cannot_be_is_named_with_its_task(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = accepted(task(predicted(["Rome"], ["B-LOC"]), "", [], "", 0.0))
    made["annotations"][0]["result"][0] |= change
    with pytest.raises(UserError, match=rf"export\.json: task 2: .*{message}"):
        read(write(tmp_path, [accepted(task(predicted(["x"], ["O"]), "", [], "", 0.0)), made]))


def test_an_annotation_without_regions_is_no_task_that_nobody_has_labelled(tmp_path: Path) -> None:
    made = accepted(task(predicted(["Rome"], ["B-LOC"]), "", [], "", 0.0))
    made["annotations"][0]["result"] = None
    with pytest.raises(UserError, match="task 1: result: expected a list of regions, found None"):
        read(write(tmp_path, [made]))


def test_another_export_is_told_from_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a list of tasks with data; export in the format JSON, not JSON-MIN"):
        read(write(tmp_path, [{"id": 1, "text": "Rome", "label": []}]))
    (tmp_path / "export.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not JSON"):
        read(tmp_path / "export.json")
