"""Labels that are spans of characters: on tokens made here, whatever the script; what does not fit is told."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import UserError
from pipeline.core.labels import entities
from pipeline.core.tokens import tokenize
from pipeline.corpus import jsonl
from pipeline.corpus.spans import Span, on_tokens, parse
from pipeline.settings.params import SpanMode

TEXTS = [
    "Goal by @ManUtd in #London!",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 Ada \U0001f1eb\U0001f1f7 in Paris \U0001f600\U0001f600",
    "\u0645\u0631\u062d\u0628\u0627 \u0644\u0646\u062f\u0646 \u200f!",
    "e\u0301tat \u6771\u4eac\u90fd NYC",
]


def read(folder: Path, *rows: dict[str, Any], spans: SpanMode = "snap") -> tuple[list[Any], Counter[str]]:
    odd: Counter[str] = Counter()
    file = folder / "posts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return jsonl.read(file, odd=odd, spans=spans), odd


def test_spans_become_labels_of_the_tokens_made_here(tmp_path: Path) -> None:
    text = "\U0001f600 Ada Byron in Paris!"
    spans = [{"start": 2, "end": 11, "label": "PER"}, {"start": 15, "end": 20, "label": "LOC"}]
    posts, odd = read(
        tmp_path,
        {"id": 1, "text": text, "spans": spans, "image": None},
        {"id": 2, "text": text, "spans": []},
        {"id": 3, "text": text, "spans": None},
    )
    assert posts[0].tokens == ["\U0001f600", "Ada", "Byron", "in", "Paris", "!"]
    assert posts[0].labels == ["O", "B-PER", "I-PER", "O", "B-LOC", "O"]
    assert (posts[1].labels, posts[2].labels) == (["O"] * 6, None)
    assert (odd["spans_snapped"], odd["spans_lost"]) == (0, 0)


@given(st.sampled_from(TEXTS), st.data())
def test_a_span_of_whole_tokens_comes_back_as_it_was_whatever_the_script(text: str, data: st.DataObject) -> None:
    tokens = tokenize(text)
    first = data.draw(st.integers(0, len(tokens) - 1))
    last = data.draw(st.integers(first, len(tokens) - 1))
    span = {"start": tokens[first][1], "end": tokens[last][1] + len(tokens[last][0]), "label": "X"}
    labels = on_tokens(parse([span], text), tokens, text, "refuse", Counter())
    assert entities(labels, "strict") == [(first, last + 1, "X")]


def test_a_span_inside_a_token_is_snapped_and_counted_or_refused(tmp_path: Path) -> None:
    row = {"id": "1", "text": "in #London now", "spans": [{"start": 4, "end": 10, "label": "LOC"}]}
    [post], odd = read(tmp_path, row)
    assert (post.tokens, post.labels) == (["in", "#London", "now"], ["O", "B-LOC", "O"])
    assert odd["spans_snapped"] == 1
    with pytest.raises(
        UserError, match=r"posts.jsonl:1: spans: 'London' \(4 to 10, LOC\) begins or ends inside of .*#London"
    ):
        read(tmp_path, row, spans="refuse")
    both = [{"start": 0, "end": 5, "label": "PER"}, {"start": 6, "end": 11, "label": "PER"}]
    [post], odd = read(tmp_path, {"id": "1", "text": "Trump/Biden", "spans": both})
    assert (post.labels, odd["spans_lost"]) == (["B-PER"], 1)


def test_white_space_at_the_ends_of_a_span_is_no_part_of_it(tmp_path: Path) -> None:
    [post], odd = read(tmp_path, {"id": "1", "text": "see Rome now", "spans": [{"start": 3, "end": 9, "label": "LOC"}]})
    assert (post.labels, odd["spans_snapped"]) == (["O", "B-LOC", "O"], 0)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([{"start": 0, "end": 99, "label": "LOC"}], r"0 to 99 is no part of the text, which has 8 characters"),
        ([{"start": 3, "end": 4, "label": "LOC"}], "holds no token"),
        ([{"start": 4, "end": 4, "label": "LOC"}], "no part of the text"),
        ([{"start": "4", "end": 8, "label": "LOC"}], r'expected \{"start": number'),
        ([{"start": 4, "end": 8}], r'expected \{"start": number'),
        ({"start": 4}, r"expected a list of"),
        ([{"start": 0, "end": 8, "label": "A"}, {"start": 4, "end": 8, "label": "B"}], "overlap"),
        ([{"start": 4, "end": 8, "label": "a b"}], r"the type 'a b' has ' '"),
    ],
)
def test_a_span_that_cannot_be_is_named_with_its_line(tmp_path: Path, spans: Any, message: str) -> None:
    with pytest.raises(UserError, match=rf"posts\.jsonl:1: .*{message}"):
        read(tmp_path, {"id": "1", "text": "see Rome", "spans": spans})


def test_exports_of_doccano_are_read_as_they_are(tmp_path: Path) -> None:
    text = "see Rome"
    entity = {"id": 5, "label": "LOC", "start_offset": 4, "end_offset": 8}
    posts, _ = read(
        tmp_path,
        {"id": 1, "text": text, "label": [[4, 8, "LOC"]], "Comments": []},
        {"id": 2, "text": text, "Comments": [], "entities": [entity], "relations": [{"from_id": 5}]},
        {"id": 3, "text": text, "labels": [[4, 8, "LOC"]]},
        {"id": 4, "text": text, "label": []},
    )
    assert [post.labels for post in posts] == [["O", "B-LOC"]] * 3 + [["O", "O"]]
    with pytest.raises(UserError, match=r"label: expected a list of \[start, end, type\], found \[\[4, 8\]\]"):
        read(tmp_path, {"id": 1, "text": text, "label": [[4, 8]]})


def test_spans_are_read_whatever_scheme_other_labels_are_in(tmp_path: Path) -> None:
    file = tmp_path / "posts.jsonl"
    row = {"id": "1", "text": "New York", "spans": [{"start": 0, "end": 8, "label": "LOC"}]}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    for scheme in ("iob2", "iob1", "bioes"):
        assert jsonl.read(file, scheme=scheme, types={"LOC": "GPE"})[0].labels == ["B-GPE", "I-GPE"]


def test_a_span_without_a_token_is_told() -> None:
    with pytest.raises(ValueError, match="holds no token"):
        on_tokens([Span(0, 1, "X")], [("b", 1)], "ab", "snap", Counter())


def test_rows_of_mner_mi_are_read_as_they_are(tmp_path: Path) -> None:
    row = {"id": 5302, "text": ["for", "jaebeom"], "label": ["O", "B-PER"], "images": ["5302_0.jpg", "5302_1.jpg"]}
    [post], _ = read(tmp_path, {**row, "url": "https://example.org/1"})
    assert (post.id, post.tokens, post.labels) == ("5302", ["for", "jaebeom"], ["O", "B-PER"])
    assert post.images == ["5302_0.jpg", "5302_1.jpg"]
