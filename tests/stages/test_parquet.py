"""A run becomes Parquet that the `datasets` library and Sightread itself read, with a card."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline.core import records
from pipeline.core.records import Prediction, View
from pipeline.corpus.parquet import read
from stages import parquet
from tests.conftest import ROOT

pytest.importorskip("pyarrow", reason="pyarrow is an extra (requirements-datasets.lock)")


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    views = {
        "train": [View("1", ["in", "New", "York"], ["O", "B-LOC", "I-LOC"], "a street", ["1.jpg"])],
        "dev": [],
        "test": [View("2", ["Rome"], None, "", []), View("3", ["Ada"], ["B-PER"], "a|b", ["3.jpg", "4.jpg"])],
        "unlabelled": [],
    }
    (tmp_path / "data/views").mkdir(parents=True)
    (tmp_path / "data/predictions").mkdir(parents=True)
    for split, rows in views.items():
        records.write(tmp_path / f"data/views/{split}.jsonl", rows)
    found = [Prediction("3", ["Ada"], ["B-PER"], ["B-ORG"], [], "")]
    records.write(tmp_path / "data/predictions/test.text_only.jsonl", found)
    monkeypatch.setattr(sys, "argv", ["stages.parquet", "out"])
    parquet.main()
    return tmp_path / "out"


def test_posts_are_read_back_as_they_were(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {"README.md", "train.parquet", "test.parquet"}
    [post] = read(exported / "train.parquet")
    assert (post.id, post.tokens, post.labels, post.images) == (
        "1",
        ["in", "New", "York"],
        ["O", "B-LOC", "I-LOC"],
        ["1.jpg"],
    )
    assert [each.labels for each in read(exported / "test.parquet")] == [None, ["B-PER"]]


def test_the_library_reads_them_with_the_names_of_tags(exported: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the library itself is not needed, and not installed")
    found = datasets.load_dataset(
        "parquet", data_files={"test": str(exported / "test.parquet")}, cache_dir=str(tmp_path / "cache")
    )["test"]
    tags = found.features["predicted_text_only"].feature
    assert tags.names == ["O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER"]
    assert found[0]["predicted_text_only"] is None
    assert [tags.int2str(tag) for tag in found[1]["predicted_text_only"]] == ["B-ORG"]
    assert (found[1]["context"], found[1]["images"]) == ("a|b", ["3.jpg", "4.jpg"])


def test_the_card_says_which_file_is_which_split_and_what_columns_are(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "  - split: test\n    path: test.parquet\n" in card
    assert "| `predicted_text_only` | what the tagger found under the condition `text_only`, or null |" in card
    assert "| test | 2 |" in card
    assert "Written by Sightread" in card
