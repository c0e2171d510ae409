"""params.yaml is written as DVC writes it: what `dvc exp run -S` changes is one line, before and after a preset."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.settings import presets, yaml
from tests.conftest import ROOT


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("preset", [None, "tweets", "ita-twitter2017"])
def test_dvc_changes_one_line(preset: str | None, tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    path = tmp_path / "params.yaml"
    if preset is not None:
        presets.apply(preset, path)
    (tmp_path / "dvc.yaml").write_text("stages: {one: {cmd: echo done, params: [train.seed]}}\n", encoding="utf-8")
    before = path.read_text(encoding="utf-8").splitlines()
    run("git", "init", "-q", folder=tmp_path)
    run(sys.executable, "-m", "dvc", "init", "-q", folder=tmp_path)
    run("git", "add", "-A", folder=tmp_path)
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "one", folder=tmp_path)
    run("git", "config", "user.name", "t", folder=tmp_path)
    run("git", "config", "user.email", "t@example.org", folder=tmp_path)
    run(sys.executable, "-m", "dvc", "exp", "run", "-S", "train.seed=77", folder=tmp_path)
    after = path.read_text(encoding="utf-8").splitlines()
    changed = [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]]
    assert changed == [("  seed: 1", "  seed: 77")]


def test_what_is_read_to_be_edited_is_written_as_it_was() -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert yaml.dump(yaml.editable(text, "params.yaml").values) == text


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        yaml.load(tmp_path / "none.yaml")
    (tmp_path / "odd.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UserError, match=r"odd\.yaml: not UTF-8 \(byte 3\)"):
        yaml.load(tmp_path / "odd.yaml")


def test_every_key_has_its_line_also_in_lists() -> None:
    document = yaml.parse("a:\n- x\n- {b: 1}\nc: {d: [2]}\n", "here")
    assert document.values == {"a": ["x", {"b": 1}], "c": {"d": [2]}}
    assert document.lines == {"a": 1, "a.0": 2, "a.1": 3, "a.1.b": 3, "c": 4, "c.d": 4, "c.d.0": 4}
