"""Files are written whole or not at all, and what cannot be read is named with its line."""

from pathlib import Path

import pytest

from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.files import numbered_jsonl, read_jsonl, write_jsonl
from pipeline.core.records import View


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    rows: list[dict[str, str | None]] = [{"text": "a\u2028b\u0085c\r"}, {"text": "é😀", "n": None}]
    assert write_jsonl(tmp_path / "new" / "rows.jsonl", rows) == 2
    assert list(read_jsonl(tmp_path / "new" / "rows.jsonl")) == rows


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])
    with pytest.raises(ValueError, match="JSON"):
        write_jsonl(path, [{"a": 2}, {"a": float("nan")}])
    assert list(read_jsonl(path)) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\ufeff{"a": 1}\r\n\n \n{"a": 2}\n', encoding="utf-8")
    assert list(numbered_jsonl(path)) == [(1, {"a": 1}), (4, {"a": 2})]
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a"', r":2: not JSON"),
        (b'{"a": 1}\n3\n', r":2: expected a JSON object, found int"),
        (b'\n \r\n{"a"', r":3: not JSON"),
        (b'{"a": "\xff"}\n', "not UTF-8"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_jsonl(path))


def test_views_are_checked(tmp_path: Path) -> None:
    view = View("1", ["a", "b"], ["O", "O"], "a dog")
    path = tmp_path / "views.jsonl"
    records.write(path, [view])
    assert list(records.read(path, View, "views")) == [view]
    write_jsonl(path, [{**records.row(view), "labels": ["O"]}])
    with pytest.raises(UserError, match="2 tokens but 1 labels"):
        list(records.read(path, View, "views"))
    write_jsonl(path, [{"id": "1"}])
    with pytest.raises(UserError, match=r"views.jsonl:1: tokens: missing; labels: missing"):
        list(records.read(path, View, "views"))
