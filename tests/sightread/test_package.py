"""The package: built as a wheel, installed, and used from a folder that has nothing of the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.core.version import __version__
from tests.conftest import ROOT

USE = """
import sys, sightread
assert "torch" not in sys.modules, "it is loaded where it is used"
found = sightread.load(sys.argv[1], device="cpu").tag("love Jordan")
print(sightread.__file__, sightread.__version__, found.seen.tokens)
"""


@pytest.mark.slow  # builds a wheel
def test_a_wheel_is_built_and_used_from_another_folder(tagger_folder: Path, tmp_path: Path) -> None:
    copy, elsewhere, site = tmp_path / "checkout", tmp_path / "elsewhere", tmp_path / "site"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, files.split("\0")):
        if name.split("/")[0] not in ("tests", "sample", "checkpoints", "benchmarks") and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    elsewhere.mkdir()
    # Without isolation: the build tool is that of the lock file, and nothing is downloaded.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", ".", str(copy)], cwd=tmp_path, check=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name == f"sightread-{__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 2_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        *("ner", "pipeline", "reporting", "sightread", "stages")
    }
    for room in ("ner", "pipeline", "reporting", "sightread", "stages"):
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / room).rglob("*.py")}
        assert modules <= set(names)
    assert {"reporting/templates/index.html.j2", "sightread/page/index.html", "sightread/page/page.js"} <= set(names)
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True)

    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*command: str, text: str = "") -> str:
        done = subprocess.run(
            command, cwd=elsewhere, env=environment, input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = str(site / "bin" / "sightread")
    assert run(script, "--version") == f"sightread {__version__}\n"
    [row] = map(
        json.loads, run(script, "tag", str(tagger_folder), "--device", "cpu", text="love Jordan\n").splitlines()
    )
    assert row["tokens"] == ["love", "Jordan"]
    (elsewhere / "gold.txt").write_text("IMGID:1\nJordan\tB-PER\n\n", encoding="utf-8")
    assert "100.00" in run(script, "score", "gold.txt", "gold.txt")
    place, version, *tokens = run(sys.executable, "-c", USE, str(tagger_folder)).split()
    assert (place, version) == (str(site / "sightread" / "__init__.py"), __version__)
    assert "".join(tokens) == "['love','Jordan']"


def test_the_packages_needs_are_those_of_the_checkout() -> None:
    """It names all of requirements.txt but what the pipeline and exports alone need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    known = {line.split("=")[0].rstrip("<>") for line in lines if line and not line.startswith("#")}
    named = {each.split(">")[0] for each in project["dependencies"]}
    assert known - named == {"dvc", "dvclive", "uv", "onnx", "onnxscript"}
    assert named <= known


def test_a_command_that_is_none_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sightread", "train"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "invalid choice: 'train'" in done.stderr


def test_the_image_is_made_of_what_is_there_and_does_not_run_as_root() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line.split() for line in re.sub(r"\\\n", " ", text).splitlines() if line and not line.startswith("#")]
    copied = [name for line in lines if line[0] == "COPY" for name in line[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"}
    assert all(name in allowed or (name.endswith(".lock") and "requirements*.lock" in allowed) for name in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert {name.rstrip("*") for name in packages["find"]["include"]} <= set(copied)
    assert [line[0] for line in lines].index("USER") > max(n for n, line in enumerate(lines) if line[0] == "RUN")
    assert next(line[1] for line in lines if line[0] == "USER") != "root"
