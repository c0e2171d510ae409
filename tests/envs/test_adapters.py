"""The adapters that run in interpreters of their own: their contract there, and the stages that change to them.

What is checked inside is in tests/envs/contract.py and own_checks.py. Interpreters that are not built are
skipped, by name.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core import environments
from pipeline.settings import yaml
from tests.conftest import ROOT
from tests.envs.cases import CASES
from tests.envs.contract import checks
from tests.project import Project, stages_run

QUICK = {"beams", "faster_rcnn", "en", "qwen3_vl"}
"""A case of each adapter; the others are slow tests, and so are most of these cases' checks."""

QUICK_CHECKS = {"batches", "fingerprint", "against_lavis", "against_detectron2", "against_easyocr"}


def is_quick(case: str, check: str) -> bool:
    return case in QUICK and check in QUICK_CHECKS


def need(name: str) -> Path:
    """The interpreter's program; skip where it cannot be used."""
    wanted = environments.environment(name)
    if problem := wanted.problem():
        pytest.skip(f"the interpreter {name} {problem}: {wanted.command}")
    return wanted.python


@dataclass
class Checked:
    """What became of checks of a case, and the folder with its models, params (`section.json`) and pictures."""

    troubles: dict[str, str | None]
    folder: Path


Run = Callable[[str, bool], Checked]


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory, pictures: list[Image.Image]) -> Run:
    """Runs a case's checks, the quick ones or the others, when they are first asked for."""

    @cache
    def run(case: str, quick: bool) -> Checked:
        python = need(next(name for name, cases in CASES.items() if case in cases))
        folder = tmp_path_factory.mktemp(case)
        (folder / "pictures").mkdir()
        for number, picture in enumerate(pictures):
            picture.save(folder / "pictures" / f"{number:02}.png")
        wanted = [check for check in checks(case) if is_quick(case, check) == quick]
        ran = subprocess.run(
            [python, "-m", "tests.envs.contract", case, str(folder), *wanted],
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr
        lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"check"')]
        return Checked({line["check"]: line["trouble"] for line in lines}, folder)

    return run


@pytest.mark.parametrize(
    ("case", "check"),
    [
        pytest.param(case, check, marks=() if is_quick(case, check) else pytest.mark.slow)
        for cases in CASES.values()
        for case in cases
        for check in checks(case)
    ],
)
def test_contract(case: str, check: str, checked: Run) -> None:
    trouble = checked(case, is_quick(case, check)).troubles[check]
    assert trouble is None, trouble


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "kind"), [("beams", "captions"), ("faster_rcnn", "objects"), ("en", "ocr"), ("qwen3_vl", "captions")]
)
def test_a_stage_changes_to_the_interpreter_and_stores_what_it_read(
    case: str, kind: str, checked: Run, tmp_path: Path
) -> None:
    folder = checked(case, True).folder
    params = yaml.load(ROOT / "params.yaml").values
    params[kind].update(json.loads((folder / "section.json").read_text()))
    (tmp_path / "params.yaml").write_text(yaml.dump(params))
    (tmp_path / "pictures").mkdir()
    for file in ("00.png", "08.png"):
        shutil.copy(folder / "pictures" / file, tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        "-m",
        f"stages.{kind}",
        "--images",
        str(tmp_path / "pictures"),
        "--output",
        str(output),
        "--params",
        str(tmp_path / "params.yaml"),
    ]
    environment = {**os.environ, "SIGHTREAD_STORE": str(tmp_path / "store")}
    for summary in ("2 read, 0 from the store, 1 failed", "0 read, 2 from the store, 1 failed"):
        ran = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert summary in ran.stdout
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(row["image"], row["status"]) for row in rows] == [
        ("00.png", "ok"),
        ("08.png", "ok"),
        ("broken.png", "unreadable"),
    ]
    assert all(row[kind] for row in rows[:2])


@pytest.mark.slow
def test_the_pipeline_swaps_to_an_interpreter_and_back(checked: Run, tmp_path: Path) -> None:
    """By one line of params, in the workspace and in a folder of DVC's own, where the interpreters are not."""
    folder = checked("beams", True).folder
    project = Project.make(tmp_path / "project", {"train": 4, "valid": 2, "test": 2})
    (project.folder / ".venvs").symlink_to(environments.folder())
    project.environment["SIGHTREAD_VENVS"] = ""
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        project.environment[name] = "t@example.org"
    project.edit(captions={"lavis": json.loads((folder / "section.json").read_text())["lavis"]})

    def run(extractor: str, *more: str) -> tuple[list[str], str]:
        output = project.run("dvc", "exp", "run", *more, "-S", f"captions.extractor={extractor}", "views")
        return stages_run(output), output

    stages, _ = run("blip")
    assert stages == ["check", "posts", "images", "objects", "captions", "ocr", "knowledge", "views"]
    before = project.outputs()
    stages, output = run("lavis", "--temp")
    assert {"captions", "views"} <= set(stages)
    assert "8 read, 0 from the store, 0 failed" in output
    assert project.outputs() == before, "it ran elsewhere"
    stages, output = run("lavis")
    assert set(stages) <= {"check", "captions", "knowledge", "views"}
    assert project.outputs()["data/contexts/captions.jsonl"] != before["data/contexts/captions.jsonl"]
    assert set(run("blip")[0]) <= {"check"}, "the run cache has the rest"
    assert project.outputs() == before


def test_flair_is_there() -> None:
    code = "from importlib.metadata import version as v; print(v('flair'), v('transformers'))"
    ran = subprocess.run([need("flair"), "-c", code], check=True, capture_output=True, text=True)
    flair, transformers = ran.stdout.split()
    assert int(flair.split(".")[0]) < 1
    assert (4, 57) <= tuple(map(int, transformers.split(".")[:2])) < (5, 0)
