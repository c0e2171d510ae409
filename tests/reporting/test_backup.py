"""An ablation's settings are taken out of params.yaml again, and nobody's edits with them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.settings import yaml
from reporting import backup
from tests.conftest import ROOT

CHANGES = {"train.seed": 7, "views.kinds": ["ocr"], "train.patience": None}


@pytest.fixture
def before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """params.yaml and dvc.lock in a folder of their own, and a backup of them; returns params.yaml."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("dvc.lock").write_text("schema: '2.0'\n", encoding="utf-8")
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@e.org", "commit", "-qm", "1"],
    ):
        subprocess.run(["git", *command], check=True)
    backup.take()
    return Path("params.yaml").read_text(encoding="utf-8")


def as_the_experiment_leaves_it() -> str:
    values = yaml.editable(Path("params.yaml").read_text(encoding="utf-8"), "params.yaml").values
    values["train"]["seed"], values["views"]["kinds"][:] = 7, ["ocr"]
    return yaml.dump(values)


def test_what_an_experiment_left_is_taken_out(before: str) -> None:
    backup.expect(CHANGES)
    Path("params.yaml").write_text(as_the_experiment_leaves_it(), encoding="utf-8")
    Path("dvc.lock").write_text("schema: '2.0'\nstages: {}\n", encoding="utf-8")
    assert backup.exists()
    backup.put_back()
    assert Path("params.yaml").read_text(encoding="utf-8") == before
    assert Path("dvc.lock").read_text(encoding="utf-8") == "schema: '2.0'\n"
    backup.drop()
    assert not backup.exists()
    assert not backup.FOLDER.exists()


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@e.org"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("killed", ["before its commit", "after its commit", "elsewhere"])
def test_the_branch_is_checked_out_again_that_an_experiment_left(before: str, killed: str) -> None:
    branch, commit = git("symbolic-ref", "HEAD"), git("rev-parse", "HEAD")
    git("checkout", "--quiet", "--detach")
    Path("params.yaml").write_text(before + "\n", encoding="utf-8")
    if killed != "before its commit":
        git("commit", "-aqm", "mine" if killed == "elsewhere" else "dvc: commit experiment 0a1b")
    left = git("rev-parse", "HEAD")
    backup.put_back()
    assert git("rev-parse", "HEAD") == (left if killed == "elsewhere" else commit)
    if killed != "elsewhere":
        assert git("symbolic-ref", "HEAD") == branch
        assert git("status", "--porcelain", "--untracked-files=no") == ""


def test_a_killed_one_that_had_changed_nothing_yet_is_no_edit(before: str) -> None:
    backup.expect(CHANGES)
    backup.put_back()
    assert Path("params.yaml").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("left", ["the experiment's", "as before"])
def test_a_later_edit_is_kept_and_named(before: str, left: str) -> None:
    backup.expect(CHANGES)
    text = as_the_experiment_leaves_it() if left == "the experiment's" else before
    edited = text.replace("epochs: 8", "epochs: 9")
    assert edited != text
    Path("params.yaml").write_text(edited, encoding="utf-8")
    with pytest.raises(UserError, match=r"params\.yaml: edited .* \.dvc/tmp/ablation/params\.yaml"):
        backup.put_back()
    assert Path("params.yaml").read_text(encoding="utf-8") == edited
    assert (backup.FOLDER / "params.yaml").read_text(encoding="utf-8") == before


def test_a_backup_that_was_not_made_to_its_end_is_none(before: str) -> None:
    """Killed before params.yaml was kept, or in the middle of keeping it: a temporary file is no backup."""
    backup.drop()
    os.makedirs(backup.FOLDER)
    shutil.copy("dvc.lock", backup.FOLDER)
    (backup.FOLDER / ".params.yaml.abc.tmp").write_text(before[:100], encoding="utf-8")
    assert not backup.exists()
    backup.take()
    assert (backup.FOLDER / "params.yaml").read_text(encoding="utf-8") == before
