"""dvc.yaml names, for every stage, just what that stage reads: its modules, its params, its data."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.settings import yaml
from pipeline.settings.params import PARAMS
from tests.conftest import ROOT
from tests.test_imports import NAMES, imported, name_of

STAGES = yaml.load(ROOT / "dvc.yaml").values["stages"]
FILES = {
    name_of(path): path
    for room in ("pipeline", "ner", "reporting", "stages")
    for path in (found.relative_to(ROOT) for found in (ROOT / room).rglob("*.py"))
}
# Packages that a stage depends on as a whole: their modules are found by name, or read files that lie beside them.
WHOLE = [Path("pipeline/extractors"), Path("reporting")]


def modules_behind(name: str) -> set[str]:
    """Every module of ours that importing and running `name` can load."""
    found, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module not in found and module in FILES:
            found.add(module)
            waiting += [other for other in imported(FILES[module]) if other in NAMES]
            if module == "pipeline.extractors.registry":  # it loads the others by name
                waiting += [other for other in FILES if other.startswith("pipeline.extractors.")]
            if module == "ner.interop.flair.training":  # runs this one in flair's interpreter
                waiting.append("ner.interop.flair.trainer")
    return found


def expected_code(stage: str) -> set[str]:
    """The code deps of a stage: files, or a folder where all of a package can be loaded by name."""
    paths = {FILES[module] for module in modules_behind(f"stages.{stage}")}
    return {(path.parent if path.parent in WHOLE else path).as_posix() for path in paths}


def dep_name(dep: str | dict[str, object]) -> str:
    return dep if isinstance(dep, str) else next(iter(dep))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_modules_it_loads(stage: str) -> None:
    rooms = ("pipeline", "ner", "reporting", "stages")
    code = {name for name in map(dep_name, STAGES[stage]["deps"]) if name.split("/")[0] in rooms}
    assert code == expected_code(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_its_module(stage: str) -> None:
    assert STAGES[stage]["cmd"] == f"python -m stages.{stage}"
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
    assert (ast.get_docstring(tree) or "").startswith(f"Stage `{stage}`:")


@pytest.mark.parametrize("stage", STAGES)
def test_params_exist_and_execution_is_no_ones(stage: str) -> None:
    for key in STAGES[stage]["params"]:
        section, _, rest = key.partition(".")
        assert section in PARAMS.model_fields
        assert section != "execution"
        assert not rest or rest in PARAMS.model_fields[section].annotation.model_fields  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("stage", "interpreter"), [("objects", "detectron2"), ("captions", "lavis"), ("ocr", "easyocr"), ("train", "flair")]
)
def test_a_stage_depends_on_the_interpreter_that_it_may_run_in(stage: str, interpreter: str) -> None:
    assert f"envs/{interpreter}.txt" in map(dep_name, STAGES[stage]["deps"])


def test_a_stage_that_takes_no_arguments_says_so_and_does_nothing_else(tmp_path: Path) -> None:
    def run(argument: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stages.posts", argument],
            cwd=tmp_path,
            text=True,
            check=False,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    assert "usage: python -m stages.posts [-h]" in run("--help").stdout
    refused = run("now")
    assert refused.returncode == 2
    assert "unrecognized arguments: now" in refused.stderr
    assert not list(tmp_path.iterdir())


def test_every_output_has_one_stage() -> None:
    outs = [out for stage in STAGES.values() for key in ("outs", "metrics", "plots") for out in stage.get(key, [])]
    names = [dep_name(out) for out in outs]
    assert len(set(names)) == len(names)
