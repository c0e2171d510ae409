"""Context records are found in the file itself: all that are wanted, by a few reads, and none out of order."""

import os
import random
from dataclasses import fields
from pathlib import Path

import pytest

from pipeline.contexts.ordered import OrderedContexts
from pipeline.core.errors import UserError
from pipeline.core.kinds import TEXT_KINDS, Key, TextKind
from pipeline.core.records import Caption, Note

ODD = ['a"b', "back\\slash", "é", "e\u0301", "\u2028", "\U0001f600", "tab\there", "x" * 9000]


class Counting(TextKind):
    """A kind that counts whose key it is asked for."""

    asked: list[str]

    def key(self, line: str) -> Key:
        self.asked.append(line)
        return super().key(line)


def counting(kind: TextKind) -> Counting:
    made = Counting(**{each.name: getattr(kind, each.name) for each in fields(kind)})
    object.__setattr__(made, "asked", [])
    return made


def write(path: Path, names: list[str]) -> TextKind:
    kind = TEXT_KINDS["captions"]
    with kind.writing(path, None) as sink:
        for name in names:
            items = [Caption(f"of {name}")] * (len(name) % 3)
            sink.add({"image": name, "sha256": None}, "ok", None, kind.dump(items))
    return kind


def test_all_are_found_that_are_there_whatever_is_wanted(tmp_path: Path) -> None:
    rng = random.Random(1)
    names = sorted({*ODD, *(f"{rng.randrange(10**9)}{rng.choice(ODD[:6])}.jpg" for _ in range(3000))})
    there = sorted(rng.sample(names, 2000))
    path = tmp_path / "captions.jsonl"
    contexts = OrderedContexts(path, write(path, there))
    for count in (0, 1, 2, 30, 900, len(names)):
        wanted = sorted(rng.sample(names, count))
        found = list(contexts.find([(name, "") for name in wanted]))
        assert [context.name for context in found] == sorted(set(wanted) & set(there))
        assert all(context.items == [Caption(f"of {context.name}")] * (len(context.name) % 3) for context in found)


def test_posts_are_found_by_id_and_split(tmp_path: Path) -> None:
    kind, path = TEXT_KINDS["knowledge"], tmp_path / "knowledge.jsonl"
    keys = sorted((f'{number % 400}"', split) for number in range(400) for split in ("dev", "test", ""))
    with kind.writing(path, None) as sink:
        for identifier, split in keys:
            note = kind.dump([Note(f"{identifier} of {split}")])
            sink.add({"id": identifier, "split": split or None}, "ok", None, note)
    contexts = OrderedContexts(path, kind)
    wanted = sorted((f'{number}"', split) for number in range(0, 800, 3) for split in ("", "test", "train"))
    found = [(context.name, context.split or "") for context in contexts.find(wanted)]
    assert found == sorted(set(wanted) & set(keys))


def test_a_few_rows_of_a_large_file_cost_a_few_reads(tmp_path: Path) -> None:
    path, names = tmp_path / "captions.jsonl", [f"{number:06}.jpg" for number in range(20_000)]
    kind = counting(write(path, names))
    contexts = OrderedContexts(path, kind)
    assert len(list(contexts.find([(names[7], ""), (names[12_345], "")]))) == 2
    assert len(kind.asked) < 150
    kind.asked.clear()
    together = [(name, "") for name in names[5000:7000]]
    assert len(list(contexts.find(together))) == 2000
    assert len(kind.asked) < 6000, "what stands together is gone through"


def test_rows_of_any_length_that_stand_together_are_gone_through(tmp_path: Path) -> None:
    path, names = tmp_path / "captions.jsonl", [f"{number:06}.jpg" + "x" * 3000 for number in range(500)]
    kind = counting(write(path, names))
    assert len(list(OrderedContexts(path, kind).find([(name, "") for name in names]))) == 500
    assert len(kind.asked) < 520


def test_a_file_of_nothing_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    contexts = OrderedContexts(path, write(path, []))
    assert path.read_bytes() == b"\n"
    contexts.require()
    assert list(contexts.find([("a", "")])) == []


def test_a_file_that_is_not_as_it_was_written_is_refused_with_the_line(tmp_path: Path) -> None:
    path, names = tmp_path / "captions.jsonl", [f"{number:05}.jpg" for number in range(2000)]
    contexts = OrderedContexts(path, write(path, names))
    contexts.require()
    lines = path.read_bytes().splitlines()
    bad = {
        b'{"image": 3}': r":1235: .*image.*; to write the file again: dvc repro .* captions$",
        b'{"image": "01234.jpg", ': r":1235: this row is cut off; to write the file again",
        b'{"image": "\xff", ': r":1235: .*utf-8",
        b"": r":1235: .*JSON",
        b"\xef\xbb\xbf" + lines[1234]: r":1235: .*JSON",
        lines[1230]: r":1235: the row of '01230.jpg' stands behind that of '01233.jpg'",
        lines[1240]: r":1236: the row of '01235.jpg' stands behind that of '01240.jpg'",
        lines[1233]: r":1235: the row of '01233.jpg' stands behind that of '01233.jpg'",
    }
    for line, message in bad.items():
        path.write_bytes(b"\n".join([*lines[:1234], line, *lines[1235:], b""]))
        with pytest.raises(UserError, match="captions\\.jsonl" + message):
            contexts.require()
    path.write_bytes(b"\n".join([*lines[1000:], *lines[:1000], b""]))
    with pytest.raises(UserError, match=r"captions\.jsonl:1001: the row of '00000\.jpg' stands behind that of '01999"):
        contexts.require()


def test_what_is_no_record_is_said_once_it_is_wanted(tmp_path: Path) -> None:
    path, names = tmp_path / "captions.jsonl", [f"{number:05}.jpg" for number in range(2000)]
    contexts = OrderedContexts(path, write(path, names))
    lines = path.read_bytes().splitlines()
    lines[1234] = b'{"image": "01234.jpg", "sha256": 3}'
    path.write_bytes(b"\n".join([*lines, b""]))
    contexts.require()
    with pytest.raises(UserError, match=r"captions\.jsonl:1235: sha256: .*; to write the file again"):
        list(contexts.find([("01234.jpg", "")]))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    contexts = OrderedContexts(path, TEXT_KINDS["captions"])
    with pytest.raises(UserError, match=r"captions\.jsonl: no such file; run the stage .*: dvc repro captions$"):
        contexts.require()
    path.mkdir()
    with pytest.raises(UserError, match=r"captions\.jsonl: a folder; expected a file"):
        contexts.require()
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"captions\.jsonl: a named pipe; expected a file"):
        contexts.require()
