"""Parquet files of the `datasets` library are read with the names of their tags, and with their pictures."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.corpus.dataset import each_of_split
from pipeline.corpus.parquet import pictured_rows, read
from pipeline.settings.params import DataParams

pa = pytest.importorskip("pyarrow", reason="pyarrow is an extra (requirements-datasets.lock)")
NAMES = ["O", "B-LOC", "I-LOC"]


def write(path: Path, rows: list[dict[str, Any]], features: dict[str, Any] | None = None) -> Path:
    """A file as the library writes it."""
    from pyarrow import parquet

    table = pa.Table.from_pylist(rows)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)
    return path


@pytest.mark.parametrize(
    "feature",
    [
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"},
        {"feature": {"names": NAMES, "_type": "ClassLabel"}, "length": -1, "_type": "Sequence"},
        [{"names": NAMES, "_type": "ClassLabel"}],
    ],
    ids=["list", "sequence", "plain list"],
)
def test_tags_have_the_names_that_the_file_gives_them(tmp_path: Path, feature: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "7", "tokens": ["in", "New", "York"], "ner_tags": [0, 1, 2], "other": 1},
        {"id": "", "tokens": ["a"], "ner_tags": None, "other": 2},
        {"id": None, "tokens": ["b"], "ner_tags": [-1], "other": 2},
    ]
    file = write(tmp_path / "part.parquet", rows, {"ner_tags": feature})
    posts = read(file, types={"LOC": "GPE"})
    assert [(post.id, post.labels) for post in posts] == [
        ("7", ["O", "B-GPE", "I-GPE"]),
        ("part-2", None),
        ("part-3", None),
    ]
    assert posts[0].images == ["7.jpg"]
    data = DataParams(root=tmp_path, format="datasets", train=["part.parquet"])
    assert len(list(each_of_split(data, "train"))) == 3


def test_tags_may_be_texts_and_numbers_need_names(tmp_path: Path) -> None:
    texts = write(tmp_path / "texts.parquet", [{"tokens": ["Rome"], "labels": ["B-LOC"]}])
    assert read(texts)[0].labels == ["B-LOC"]
    with pytest.raises(UserError, match="row 1: its tags are numbers, and the file does not name them"):
        read(write(tmp_path / "numbers.parquet", [{"tokens": ["Rome"], "ner_tags": [1]}]))
    feature = {"feature": {"names": NAMES, "_type": "ClassLabel"}, "_type": "List"}
    with pytest.raises(UserError, match="row 1: the tag 3 is none of the 3 that the file names"):
        read(write(tmp_path / "wrong.parquet", [{"tokens": ["Rome"], "ner_tags": [3]}], {"ner_tags": feature}))


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.parquet").write_text("not parquet")
    with pytest.raises(UserError, match=r"no\.parquet: no Parquet file"):
        read(tmp_path / "no.parquet")
    with pytest.raises(UserError, match=r"expected a column tokens .* found text"):
        read(write(tmp_path / "text.parquet", [{"text": "a"}]))
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "gone.parquet")


@pytest.mark.parametrize(
    ("rows", "names", "problem"),
    [
        ([{"tokens": ["a"], "ner_tags": 1}], NAMES, "row 1: labels: expected null or 1 texts"),
        ([{"tokens": ["a", "b"], "ner_tags": [1, None]}], NAMES, "row 1: the tag None is none of the 3"),
        ([{"tokens": ["a"], "ner_tags": [1]}], 5, "column ner_tags: expected a list of tags' names, found 5"),
    ],
    ids=["no list", "a tag that is not there", "no names"],
)
def test_odd_tags_are_named(rows: list[dict[str, Any]], names: Any, problem: str, tmp_path: Path) -> None:
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
    with pytest.raises(UserError, match=problem):
        read(write(tmp_path / "odd.parquet", rows, {"ner_tags": feature}))


def test_a_page_that_is_damaged_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "torn.parquet", [{"id": str(row), "tokens": ["word"]} for row in range(50)])
    data = file.read_bytes()
    file.write_bytes(data[:30] + bytes(90) + data[120:])
    with pytest.raises(UserError, match=r"torn\.parquet: this file is damaged"):
        read(file)


def test_pictures_of_a_post_that_are_called_alike_are_kept_apart_and_no_name_is_a_tools(tmp_path: Path) -> None:
    paths = ["x/i.jpg", "y/i.jpg", "z/i.jpg", ".dvcignore", "a" * 300]
    contents = [b"1", b"2", b"1", b"4", b"5"]
    images = [{"bytes": content, "path": path} for path, content in zip(paths, contents, strict=True)]
    [(row, inside)] = pictured_rows(write(tmp_path / "set.parquet", [{"tokens": ["a"], "images": images}]))
    assert row["images"] == ["i.jpg", "set-1-2", "i.jpg", "set-1-4", "set-1-5"]
    assert [inside[name] for name in row["images"]] == contents
