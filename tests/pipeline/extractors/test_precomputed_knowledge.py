"""Knowledge that others have gathered: found by id or by text, counted where it is of no post."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.records import Note
from pipeline.extractors.base import PostInput
from pipeline.extractors.precomputed_knowledge import PrecomputedKnowledge
from pipeline.extractors.registry import choose

PGIM = (
    "Finally\tO\r\nJordan\tB-PER\r\n!\tO\r\n<EOS>\tX\r\nJordan\tX\r\n(person)\tX\r\n\t\r\nRome\tB-LOC\r\n<EOS>\tX\r\n"
)


def reader(*files: Path, until: str | None = None) -> PrecomputedKnowledge:
    path = str(files[0]) if len(files) == 1 else [str(file) for file in files]
    options = {"path": path, "until": until}
    made = choose("knowledge", {"extractor": "precomputed", "precomputed": options}).create()
    assert isinstance(made, PrecomputedKnowledge)
    return made


def written(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def post(name: str, text: str = "x", split: str | None = "test") -> PostInput:
    return PostInput(name, split, text.split(), {})


def notes(extractor: PrecomputedKnowledge, *posts: PostInput) -> list[list[str] | None]:
    extractor.expect(posts)
    found = map(extractor.lookup, posts)
    return [None if each is None else [note.text for note in each] for each in found]


def test_entries_by_id(tmp_path: Path) -> None:
    file = written(
        tmp_path / "a.jsonl",
        {"id": "1", "knowledge": "a place"},
        {"id": 2, "knowledge": ["one", {"text": "two", "score": 0.5, "source": "a book"}]},
        {"id": "3", "knowledge": ""},
        {"id": "cafe\u0301", "knowledge": ["NFD"]},
        {"id": "of no post", "knowledge": ["lost"]},
        {"id": "failed", "split": None, "status": "failed", "error": "gone", "knowledge": []},
    )
    extractor = reader(file)
    posts = [post(name) for name in ("1", "2", "3", "caf\u00e9", "4", "failed")]
    assert notes(extractor, *posts) == [["a place"], ["one", "two"], [], ["NFD"], None, None]
    assert extractor.lookup(posts[1]) == [Note("one"), Note("two", 0.5, "a book")]
    assert extractor.used() == f"1 entry fits no post, such as {file}:5"


def test_texts_are_read_as_far_as_until(tmp_path: Path) -> None:
    texts = ["1. Rome (city) Reasoning: Reasoning: why", {"text": "all of it", "score": 0.5}, "Reasoning: nothing else"]
    file = written(tmp_path / "a.jsonl", {"id": "1", "knowledge": texts}, {"id": "2", "knowledge": "Reasoning:"})
    extractor = reader(file, until="Reasoning:")
    assert extractor.lookup(post("1")) == [Note("1. Rome (city)"), Note("all of it", 0.5)]
    assert extractor.lookup(post("2")) == []
    with pytest.raises(UserError, match=r"knowledge\.precomputed\.until: found ''"):
        reader(file, until="")


def test_an_id_in_two_splits_with_different_texts_needs_the_split(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", {"id": "1", "knowledge": "a"})
    both = [post("1", "see Rome", "train"), post("1", "see Rome", "test")]
    assert notes(reader(file), *both) == [["a"], ["a"]], "the same text"
    with pytest.raises(UserError, match=r"a\.jsonl:1: the entry 1 fits two posts with different texts, in train and t"):
        notes(reader(file), both[0], post("1", "at home", "test"))
    written(file, {"id": "1", "split": "train", "knowledge": "a"}, {"id": "1", "split": "test", "knowledge": "b"})
    assert notes(reader(file), both[0], post("1", "at home", "test")) == [["a"], ["b"]]


def test_files_as_pgim_has_them_go_by_the_text(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(PGIM.encode())
    (tmp_path / "test.txt").write_bytes(b"Rome\tO\n<EOS>\tB-X\ncapital\tX\n\n\nlost\tO\n<EOS>\tX\nword\tX")
    extractor = reader(tmp_path / "train.txt", tmp_path / "test.txt")
    found = notes(
        extractor, post("1", "Finally Jordan !"), post("2", "Rome"), post("3", "Rome", "dev"), post("4", "Rom")
    )
    assert found == [["Jordan (person)"], ["capital"], ["capital"], None]
    assert extractor.used() == f"1 entry fits no post, such as {tmp_path / 'test.txt'}:6"
    assert "with entries for 'Finally Jordan !', 'Rome', 'Rome', …" in extractor.source


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "1"}', r'a:1: expected {"id": id, "knowledge": text or \[texts\]}, found the keys id'),
        ('{"id": "1", "knowledge": {}}', "a:1: expected"),
        ('{"id": "1", "split": ["test"], "knowledge": ""}', "a:1: expected"),
        ('{"id": "1", "knowledge": [3]}', "a:1: expected an object, found 3"),
        ('{"id": "1", "knowledge": ["\\ud83d"]}', "a:1: an unpaired surrogate"),
        (
            '{"id": "1", "knowledge": ""}\n\n{"id": "1", "knowledge": ""}',
            r"a:3: a second entry for 1 \(the first is .*:1",
        ),
        ("a\tO\n<EOS>\tX\n\nb", "a:4: expected a token, a tab and its label, as in files of PGIM, or JSON Lines"),
        (
            "a\tO\nb\tX\n",
            "a:1: expected the tokens of a post, then <EOS><TAB>X and what is known .* found 'a b' without",
        ),
        ("a\tO\n<EOS>\tX\nb\tO\n", "a:1: expected the tokens of a post, then <EOS><TAB>X"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        reader(tmp_path / "a").lookup(post("1", "a"))


def test_the_files_are_looked_for_before_a_run(tmp_path: Path) -> None:
    for path, message in ((None, "path: null"), (["a", "b"], "precomputed.path: a: no such file")):
        choice = choose("knowledge", {"extractor": "precomputed", "precomputed": {"path": path}})
        with pytest.raises(UserError, match=message):
            choice.require()
    with pytest.raises(UserError, match=r"knowledge\.precomputed\.path: found \[\]"):
        choose("knowledge", {"extractor": "precomputed", "precomputed": {"path": []}})
