"""Rows of posts to tag: their formats, recognised or named, and rows that are none."""

import json
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.tokens import tokenize
from sightread.rows import Format, Row, read


def rows(tmp_path: Path, content: str | bytes, form: Format = "auto", name: str = "in", **options: object) -> list[Row]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(str(path), form, tokenize, **options))  # type: ignore[arg-type]


def test_a_format_is_recognised_by_its_first_line_or_its_name(tmp_path: Path) -> None:
    posts = {
        "jsonl": '\n{"id": "a", "text": "Hi there"}\n',
        "csv": 'id,text\na,"Hi there"\n',
        "conll": "IMGID:a\nHi\tO\nthere\tO\n\n",
        "text": "Hi there\n",
    }
    for form, content in posts.items():
        [row] = rows(tmp_path, content)
        assert row.post is not None
        assert row.post.tokens == ["Hi", "there"]
        assert row.id == ("1" if form == "text" else "a")
        assert row.text == (None if form == "conll" else "Hi there")
    assert rows(tmp_path, "{Hi}\n", name="in.jsonl")[0].error is not None
    assert rows(tmp_path, "{Hi}\n")[0].text == "{Hi}"
    assert rows(tmp_path, "") == []


def test_pictures_are_named_in_the_row_or_by_its_id(tmp_path: Path) -> None:
    lines = [
        {"id": 1, "text": "a"},
        {"id": "2", "text": "a", "image": None},
        {"id": "3", "text": "a", "images": ["x.png", "y.png"]},
        {"text": "a"},
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    found = [row.post.images for row in rows(tmp_path, content, image_name="{id}.jpg") if row.post]
    assert found == [["1.jpg"], [], ["x.png", "y.png"], ["4.jpg"]]
    assert [row.post.images for row in rows(tmp_path, content) if row.post] == [[], [], ["x.png", "y.png"], []]
    for of_lines, images in ((False, []), (True, ["1.jpg"])):
        [row] = rows(tmp_path, "Hi\n", image_name="{id}.jpg", of_lines=of_lines)
        assert row.post is not None
        assert row.post.images == images
    [row] = rows(tmp_path, "IMGID:a\nHi\tO\n\n", image_name="{id}.jpg")
    assert row.post is not None
    assert row.post.images == ["a.jpg"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"id": "x", "text": 5}', "text: expected a text, found 5"),
        (b'{"id": "x"}', "expected the keys id, either tokens or text"),
        (b'{"id": "x", "tokens": ["a"], "labels": ["B"]}', "is no IOB2 label"),
        (b'["x"]', "expected a JSON object, found list"),
        (b"{" * 5000, "not JSON"),
        (b'{"id": "x", "text": "caf\xe9"}', "not UTF-8"),
        (b'{"id": "x", "text": "\\ud83d"}', "not UTF-8, or an unpaired surrogate"),
        (b'{"id": "x", "tokens": []}', "has no tokens"),
        (b'{"id": "x", "text": "a", "images": "x.jpg"}', "images: expected null or a list"),
    ],
)
def test_a_row_that_is_none_says_what_is_wrong_and_the_others_are_read(tmp_path: Path, line: bytes, error: str) -> None:
    found = rows(tmp_path, b'{"id": "1", "text": "a"}\n' + line + b'\n{"id": "3", "text": "b"}\n', "jsonl")
    assert [row.id for row in found if row.post] == ["1", "3"]
    assert found[1].post is None
    assert found[1].error is not None
    assert found[1].error.startswith(f"{tmp_path}/in:2: ")
    assert error in found[1].error
    assert len(found[1].error) <= 500


def test_a_tables_bad_rows_are_named_and_the_others_read(tmp_path: Path) -> None:
    content = b'id,text,likes\n1,a,2\n2,b\n3,"a\nb",4\n4,"x"y,1\n5,c,\n'
    found = rows(tmp_path, content)
    assert [(row.id, row.text) for row in found if row.post] == [("1", "a"), ("3", "a\nb"), ("5", "c")]
    assert [row.error is not None for row in found] == [False, True, False, True, False]
    with pytest.raises(UserError, match=r"in:1: expected a header with the columns id"):
        rows(tmp_path, "name,text\n1,a\n", "csv")


def test_what_is_wrong_can_be_written_whatever_the_file_is_called(tmp_path: Path) -> None:
    [row] = rows(tmp_path, "{", "jsonl", name="\udcff")
    assert row.error is not None
    assert "\\udcff:1: not JSON" in row.error
    row.error.encode()


def test_offsets_are_those_of_the_text(tmp_path: Path) -> None:
    [row] = rows(tmp_path, "\ufeffHi  there\n")
    assert (row.text, row.starts) == ("Hi  there", (0, 4))
