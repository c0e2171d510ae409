"""What params.yaml names and is not there is found before any work is done, each with its key and line."""

from pathlib import Path

import pytest

from pipeline.checks.check import check
from pipeline.core import trackers
from pipeline.core.errors import UserError
from tests.conftest import ROOT


def test_everything_that_is_not_there_is_named_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SIGHTREAD_VENVS", str(tmp_path / "venvs"))
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for old, new in (
        ("trainer: transformers", "trainer: flair"),
        ("  - test.txt", "  - lost.txt"),
        ("encoder: checkpoints/sample/xlm-r", "encoder: checkpoints/lost"),
        ("extractor: transformers", "extractor: detectron2"),
    ):
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        check(path)
    mistakes = str(caught.value).splitlines()
    for key, message in (
        ("data.test", "sample/data/lost.txt: no such file"),
        ("objects.detectron2", "python -m pipeline.environments sync detectron2"),
        ("train.encoder", "checkpoints/lost"),
        ("train.trainer", "python -m pipeline.environments sync flair"),
    ):
        found = [line for line in mistakes if f": {key}: " in line and message in line]
        assert len(found) == 1, mistakes
        assert found[0].startswith(f"{path}:")


def test_the_shipped_params_name_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    assert check(ROOT / "params.yaml").train.trainer == "transformers"


def test_word_vectors_are_looked_into_where_the_system_reads_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    vectors, path = tmp_path / "vectors.txt", tmp_path / "params.yaml"
    text = (
        (ROOT / "params.yaml").read_text(encoding="utf-8").replace("word_vectors:  ", f"word_vectors: {vectors}  ", 1)
    )
    path.write_text(text, encoding="utf-8")
    check(path)
    path.write_text(text.replace("model: ita", "model: iie4mner", 1), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"params.yaml:\d+: train.iie4mner.word_vectors: word vectors .* cannot be read"
    ):
        check(path)
    vectors.write_text("name 1.5\n", encoding="utf-8")
    assert check(path).train.word_vectors == vectors


def test_what_is_to_follow_a_training_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    monkeypatch.setitem(trackers.PACKAGES, "wandb", ("no_such_package",))
    text, path = (ROOT / "params.yaml").read_text(encoding="utf-8"), tmp_path / "params.yaml"
    path.write_text(text.replace("report_to: none", "report_to: wandb", 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"params.yaml:\d+: train.report_to: wandb: the package no_such_package is not"):
        check(path)
