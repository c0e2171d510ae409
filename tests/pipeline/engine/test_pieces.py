"""Posts that are read in pieces, by whichever process, are those of the files read whole, and so is what is wrong."""

import pickle
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.core import files
from pipeline.core.errors import UserError
from pipeline.corpus import conll
from pipeline.corpus.dataset import settled
from pipeline.corpus.report import Report
from pipeline.engine import in_order, posts
from pipeline.engine.in_order import Tasks, Unit
from pipeline.settings.params import DataParams, PostSplit, RayExecution

RAY = RayExecution()
LINES = [
    *["Ada\tB-PER", "Lovelace\tI-PER", "of\tO", "#\tO", "IMGID:7\tO", "\u200b\tO"] * 3,
    *["", "", "", "", "\t", "\t\t"],
    *["IMGID:{}", "IMGID:{}", "IMGID:{}", "\ufeffIMGID:{}", "IMGID:{}\t"],
    *["# id {}", "-DOCSTART- -X- O", "-DOCSTART-\tO"],
]
WRONG = ["no label", "\tO", "x\tB-", "IMGID:", "# \u00e9 amid"]


def in_turn(units: Iterable[Unit[Any]], tasks: Tasks) -> Iterator[tuple[Any, Any]]:
    """What workers give, one after another, by way of bytes; units are asked for ahead, as there."""
    for unit in list(units):
        arguments = unit.arguments
        yield unit.of, None if arguments is None else pickle.loads(pickle.dumps(tasks.run(*arguments)))  # noqa: S301


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posts, "in_order", in_turn)
    monkeypatch.setattr(in_order, "LEAST_BYTES", 0)


def found(data: DataParams, split: PostSplit, ray: RayExecution | None) -> Any:
    """All that the stage makes of a split, or the message of an error."""
    odd, report = Counter[str](), Report()
    try:
        given = posts.posts(data, split, odd, report.counts(split), ray)
        lines = [post.line for post in report.noted(split, settled(given, split, odd))]
    except UserError as error:
        return str(error)
    return lines, report.found({split: odd})


def same(data: DataParams, split: PostSplit, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is found, once it is seen to be the same in pieces of any size."""
    whole = found(data, split, None)
    for size in (1, 7, 40, 200, 1 << 19):
        monkeypatch.setattr(files, "PIECE_BYTES", size)
        assert found(data, split, RAY) == whole, size
    return whole


def drawn(rng: random.Random, wrong: float) -> str:
    """A file of lines that mean something to the reader, in any order."""
    end = rng.choice(["\n", "\n", "\r\n", "\r\r\n"])
    numbers = iter(range(10**6))
    lines = [
        rng.choice(WRONG if rng.random() < wrong else LINES).format(next(numbers) % 40)
        for _ in range(rng.randrange(60))
    ]
    return rng.choice(["", "", "\ufeff"]) + end.join(lines) + rng.choice(["", end])


@pytest.mark.parametrize("seed", range(40))
def test_files_like_conll(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(drawn(rng, seed % 2 * 0.02), encoding="utf-8", newline="")
    data = DataParams(root=tmp_path, train=["a.txt", "b.txt"], test=["b.txt"], unlabelled=["a.txt"])
    for split in ("train", "test", "unlabelled"):
        same(data, split, monkeypatch)


def test_sound_files_like_conll_are_read_in_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(
        f"{'' if number % 3 else f'IMGID:{number % 20}{chr(10)}'}Rome\tB-LOC\nnow\tO\n\n" for number in range(200)
    )
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    data = DataParams(root=tmp_path, train=["a.txt"], types={"LOC": "O"})
    lines, report = same(data, "train", monkeypatch)
    assert len(lines) == 200
    assert lines[1].startswith('{"id": "a-2", ')
    assert report["splits"]["train"]["odd"]["dropped_labels"] == 200
    assert report["splits"]["train"]["odd"]["repeated_ids"] == 47
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    made = list(files.pieces(tmp_path / "a.txt", conll.after_post))
    assert len(made) > 30
    assert b"".join(piece.data for piece in made) == text.encode()
    assert all(piece.data.endswith(b"O\n\n") for piece in made)


def test_posts_with_no_blank_line_between_them_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("".join(f"IMGID:{n}\nRome\tB-LOC\n" for n in range(90)), encoding="utf-8")
    assert len(same(DataParams(root=tmp_path, train=["a.txt"]), "train", monkeypatch)[0]) == 90
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    assert len(list(files.pieces(tmp_path / "a.txt", conll.after_post))) > 10


def test_json_lines_and_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f'{{"id": "{number % 30}", "text": "Ada in Rome", "spans": []}}\n' for number in range(90)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "b.txt").write_text("".join(f"tweet {number}\r\n\r\n" for number in range(50)), encoding="utf-8")
    data = DataParams(root=tmp_path, format="jsonl", train=["a.jsonl"], unlabelled=["b.txt", "a.jsonl"])
    lines, report = same(data, "train", monkeypatch)
    assert (len(lines), report["splits"]["train"]["odd"]["repeated_ids"]) == (90, 60)
    lines, _ = same(data, "unlabelled", monkeypatch)
    assert (len(lines), lines[1][:14]) == (140, '{"id": "b-3", ')
    (tmp_path / "a.jsonl").write_text("".join([*rows[:70], '{"id": 1.5}\n', *rows[70:], "[\n"]), encoding="utf-8")
    message = same(data, "train", monkeypatch)
    assert "a.jsonl:71: " in message
    assert "a.jsonl:92: " in message


def test_what_is_so_of_every_post_is_told_of_the_file_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaced = "Rome B-LOC\nnow O\n\n" * 60
    (tmp_path / "a.txt").write_text(spaced, encoding="utf-8")
    data = DataParams(root=tmp_path, train=["a.txt"], unlabelled=["words.txt"])
    assert "separated by spaces" in same(data, "train", monkeypatch)
    (tmp_path / "a.txt").write_text(spaced + "IMGID:1\nRome\tB-LOC\n\n", encoding="utf-8")
    assert len(same(data, "train", monkeypatch)[0]) == 61
    (tmp_path / "words.txt").write_text("Rome\n" * 100, encoding="utf-8")
    assert "every line is one token" in same(data, "unlabelled", monkeypatch)
    (tmp_path / "words.txt").write_text("Rome\n" * 100 + "in Rome\n", encoding="utf-8")
    assert len(same(data, "unlabelled", monkeypatch)[0]) == 101


def test_labels_in_some_posts_of_a_split_and_bytes_that_are_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(b"IMGID:1\nRome\tB-LOC\n\nIMGID:2\nRome\n\n" * 20)
    data = DataParams(root=tmp_path, train=["a.txt"], test=["a.txt"])
    assert "20 of 40 posts have no labels" in same(data, "test", monkeypatch)
    (tmp_path / "a.txt").write_bytes(b"IMGID:1\nRome\tB-LOC\n\n" * 20 + b"IMGID:2\nR\xe9me\tO\n\n")
    assert "a.txt:62: not UTF-8" in same(data, "train", monkeypatch)
    (tmp_path / "a.txt").unlink()
    assert "a.txt: no such file" in same(data, "train", monkeypatch)


def test_of_two_files_that_are_wrong_the_first_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("Rome\n" * 300, encoding="utf-8")
    (tmp_path / "c.txt").write_bytes(b"in R\xe9me\n")
    data = DataParams(root=tmp_path, train=["a.txt", "b.txt"], unlabelled=["a.txt", "c.txt", "b.txt"])
    assert "b.txt: no such file" in same(data, "train", monkeypatch)
    assert "a.txt: every line is one token" in same(data, "unlabelled", monkeypatch)
    (tmp_path / "a.txt").write_text("Rome\tB-\n", encoding="utf-8")
    assert "a.txt:1: " in same(data, "train", monkeypatch)
    (tmp_path / "a.txt").write_text("in Rome\n", encoding="utf-8")
    assert "c.txt:1: not UTF-8" in same(data, "unlabelled", monkeypatch)


def test_other_formats_and_a_limit_are_read_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(f"{n},in Rome\n" for n in range(30)), encoding="utf-8")
    (tmp_path / "a.txt").write_text("IMGID:1\nRome\tB-LOC\n\n" * 20, encoding="utf-8")
    assert len(same(DataParams(root=tmp_path, format="csv", train=["a.csv"]), "train", monkeypatch)[0]) == 30
    lines, report = same(DataParams(root=tmp_path, train=["a.txt"], limit=7), "train", monkeypatch)
    assert (len(lines), report["splits"]["train"]["posts"]) == (7, 7)
    assert report["splits"]["train"]["odd"]["beyond_limit"] == 13
    _, report = same(DataParams(root=tmp_path, unlabelled=["a.txt"], limit=7), "unlabelled", monkeypatch)
    assert report["splits"]["unlabelled"]["odd"]["labels_not_read"] == 7


def test_a_file_that_changes_under_the_readers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("IMGID:1\nRome\tB-\n\n", encoding="utf-8")

    def mended(units: Iterable[Unit[Any]], tasks: Tasks) -> Iterator[tuple[Any, Any]]:
        for each in in_turn(units, tasks):
            path.write_text("IMGID:1\nRome\tB-LOC\n\n", encoding="utf-8")
            yield each

    monkeypatch.setattr(posts, "in_order", mended)
    assert found(DataParams(root=tmp_path, train=["a.txt"]), "train", RAY) == (
        f"{path}: it has changed while it was read; run dvc repro posts again"
    )
