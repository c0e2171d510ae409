"""Posts without labels, a split of their own: every format, told by name and content."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.records import Post
from pipeline.corpus.dataset import each_of_split
from pipeline.settings.params import DataParams

FILES = {
    "a.jsonl": '{"id": "1", "tokens": ["so", "true"], "labels": ["O", "O"]}\n'
    '{"id": 2, "text": "what a day", "image": null}\n',
    "b.csv": "id,text,image\n1,Bye now,x.jpg\n",
    "c.txt": "IMGID:7\nsee\nRome\n\n",
    "d.conll": "Jordan\tB-PER\nwon\tO\n\n",
    "tweets.txt": "\ufeffsee you in Rome!\n\n  \nBye now\n",
}


def read(folder: Path, files: dict[str, str], odd: Counter[str] | None = None) -> list[Post]:
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return list(each_of_split(DataParams(root=folder, unlabelled=list(files)), "unlabelled", odd))


def test_files_of_all_formats_are_one_split_without_labels(tmp_path: Path) -> None:
    odd: Counter[str] = Counter()
    assert read(tmp_path, FILES, odd) == [
        Post("1", ["so", "true"], None, ["1.jpg"]),
        Post("2", ["what", "a", "day"], None, []),
        Post("1#2", ["Bye", "now"], None, ["x.jpg"]),
        Post("7", ["see", "Rome"], None, ["7.jpg"]),
        Post("d-1", ["Jordan", "won"], None, []),
        Post("tweets-1", ["see", "you", "in", "Rome", "!"], None, []),
        Post("tweets-4", ["Bye", "now"], None, []),
    ]
    assert (odd["labels_not_read"], odd["repeated_ids"]) == (2, 1)


def test_no_file_is_no_post(tmp_path: Path) -> None:
    assert read(tmp_path, {}) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"id": "1"}', r"a\.jsonl:1: expected the keys id, either tokens or text"),
        ("a.txt", "see\nRome\n", r"a\.txt: every line is one token; expected a post a line, or .* IMGID:<id>"),
        ("a.txt", "IMGID:1\na\tQ-X\n", r"a\.txt:2: .*Q-X"),
    ],
)
def test_a_file_that_is_no_such_thing_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, {name: text})
