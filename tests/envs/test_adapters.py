"""The adapters that run in interpreters of their own: their contract there, and the stages that change to them.

What is checked inside is in tests/envs/contract.py. Interpreters that are not built are skipped, by name.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipeline import environments
from tests.conftest import ROOT
from tests.envs.contract import CASES, checks

QUICK = {"lavis": "beams", "detectron2": "faster_rcnn", "easyocr": "en"}
"""The case of each adapter that is no slow test."""

KINDS = {"lavis": "captions", "detectron2": "objects", "easyocr": "ocr"}


def need(name: str) -> Path:
    """The interpreter's program; skip where it cannot be used."""
    wanted = environments.environment(name)
    if problem := wanted.problem():
        pytest.skip(f"the interpreter {name} {problem}: {wanted.command}")
    return wanted.python


@dataclass
class Checked:
    """What became of the checks of a case, and the folder with its models and params."""

    troubles: dict[str, str | None]
    folder: Path


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory, pictures: list[Image.Image]) -> "dict[str, Checked]":
    """Each case's checks, run when first asked for."""
    class Cases(dict[str, Checked]):
        def __missing__(self, case: str) -> Checked:
            name = next(name for name, cases in CASES.items() if case in cases)
            self[case] = run_checks(need(name), name, case, tmp_path_factory.mktemp(case), pictures)
            return self[case]

    return Cases()


def run_checks(python: Path, name: str, case: str, folder: Path, pictures: list[Image.Image]) -> Checked:
    (folder / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / "pictures" / f"{number:02}.png")
    ran = subprocess.run([python, "-m", "tests.envs.contract", name, str(folder), case], cwd=ROOT, check=False,
                         capture_output=True, text=True)
    lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"case"')]
    assert ran.returncode == 0, ran.stderr
    return Checked({line["check"]: line["trouble"] for line in lines}, folder)


@pytest.mark.parametrize(("case", "check"), [
    pytest.param(case, check, marks=() if case == QUICK[name] else pytest.mark.slow)
    for name, cases in CASES.items() for case in cases for check in checks(case)])
def test_contract(case: str, check: str, checked: "dict[str, Checked]") -> None:
    trouble = checked[case].troubles[check]
    assert trouble is None, trouble


@pytest.mark.parametrize("name", ["easyocr", pytest.param("lavis", marks=pytest.mark.slow),
                                  pytest.param("detectron2", marks=pytest.mark.slow)])
def test_a_stage_changes_to_the_interpreter_and_stores_what_it_read(name: str, checked: "dict[str, Checked]",
                                                                    tmp_path: Path) -> None:
    case, kind = checked[QUICK[name]], KINDS[name]
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params[kind].update(json.loads((case.folder / "sections.json").read_text())[QUICK[name]][1])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "pictures").mkdir()
    for file in ("00.png", "08.png"):
        shutil.copy(case.folder / "pictures" / file, tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", f"stages.{kind}", "--images", str(tmp_path / "pictures"), "--output", str(output),
               "--params", str(tmp_path / "params.yaml")]
    environment = {**os.environ, "SIGHTREAD_STORE": str(tmp_path / "store")}
    for summary in ("2 read, 0 from the store, 1 failed", "0 read, 2 from the store, 1 failed"):
        ran = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        assert summary in ran.stdout
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(row["image"], row["status"]) for row in rows] == [("00.png", "ok"), ("08.png", "ok"),
                                                               ("broken.png", "unreadable")]
    assert all(row[kind] for row in rows[:2])


def test_flair_is_there() -> None:
    code = "from importlib.metadata import version as v; print(v('flair'), v('transformers'))"
    ran = subprocess.run([need("flair"), "-c", code], check=True, capture_output=True, text=True)
    flair, transformers = ran.stdout.split()
    assert int(flair.split(".")[0]) < 1
    assert (4, 57) <= tuple(map(int, transformers.split(".")[:2])) < (5, 0)
