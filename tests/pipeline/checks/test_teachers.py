"""Saved taggers that teach: looked for before anything runs, and called by their content."""

import shutil
from pathlib import Path

import pytest

from pipeline.checks import folders
from pipeline.checks.check import check
from pipeline.checks.identities import identities
from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.settings import params, yaml
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("sample", "checkpoints/sample", "envs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "checkpoints/sample/xlm-r", tmp_path / "checkpoints/teacher")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    return tmp_path


def written(taggers: list[str]) -> Path:
    values = yaml.load(ROOT / "params.yaml").values
    values["train"]["teacher"]["taggers"] = taggers
    path = Path("params.yaml")
    path.write_text(yaml.dump(values), encoding="utf-8")
    return path


def test_a_teacher_that_is_not_there_or_is_about_to_be_deleted_is_named(project: Path) -> None:
    Path("models/tagger").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        check(written(["self", "checkpoints/lost", "./models/tagger"]))
    lines = [line for line in str(caught.value).splitlines() if ": train.teacher.taggers: " in line]
    assert len(lines) == 2
    assert "checkpoints/lost: no such folder; expected that of a saved tagger" in lines[0]
    assert "models/tagger: DVC deletes it before it trains another there; copy it" in lines[1]


def test_a_changed_teacher_is_another_one(project: Path) -> None:
    settings = params.load(written(["self", "checkpoints/teacher"]))
    key = "train.teacher.taggers.0"
    before = identities(settings)["train"]["checkpoints"][key]
    assert before == f"sha256:{checkpoints.digest('checkpoints/teacher')}"
    config = project / "checkpoints/teacher/config.json"
    config.write_text(config.read_text().replace("{", '{"a": 1,', 1))
    assert identities(settings)["train"]["checkpoints"][key] != before
    assert key not in identities(params.load(written(["self"])))["train"]["checkpoints"]


def test_a_teacher_that_dvc_does_not_look_at_is_warned_of(project: Path) -> None:
    shutil.copytree("checkpoints/teacher", "elsewhere/teacher")
    found = folders.findings(params.load(written(["checkpoints/teacher", "elsewhere/teacher"])))
    told = [finding for finding in found if finding.key == "train.teacher.taggers"]
    assert [(finding.problem.split(":")[0], finding.certain) for finding in told] == [("elsewhere/teacher", False)]
