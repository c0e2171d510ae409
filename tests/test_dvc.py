"""dvc.yaml names, for every stage, just what that stage reads: its rooms of code, its params, its data."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ner.training.callbacks import DRAWN
from pipeline.checks.identities import STAGES as CHECKED
from pipeline.settings import yaml
from pipeline.settings.params import PARAMS
from tests.conftest import ROOT
from tests.test_imports import NAMES, imported, name_of

DVC = yaml.load(ROOT / "dvc.yaml").values
STAGES, PLOTS = DVC["stages"], DVC["plots"]
FILES = {
    name_of(path): path
    for room in ("pipeline", "ner", "reporting", "stages")
    for path in (found.relative_to(ROOT) for found in (ROOT / room).rglob("*.py"))
}
PACKAGES = ("pipeline", "ner", "reporting", "stages")


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
            if module == "ner.interop.flair.training":  # runs this one in flair's environment
                waiting.append("ner.interop.flair.trainer")
    return found


def dep_name(dep: str | dict[str, object]) -> str:
    return dep if isinstance(dep, str) else next(iter(dep))


def code_deps(stage: str) -> set[Path]:
    return {Path(name) for name in map(dep_name, STAGES[stage]["deps"]) if name.split("/")[0] in PACKAGES}


def test_the_pipeline_is_read_in_a_sitting() -> None:
    assert len((ROOT / "dvc.yaml").read_text(encoding="utf-8").splitlines()) <= 130


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_loads_nothing_from_outside_the_rooms_it_depends_on(stage: str) -> None:
    rooms = code_deps(stage)
    missing = {
        module
        for module in modules_behind(f"stages.{stage}")
        if not any(FILES[module].is_relative_to(room) for room in rooms)
    }
    assert missing == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_loads_something_from_every_room_it_depends_on(stage: str) -> None:
    loaded = {FILES[module] for module in modules_behind(f"stages.{stage}")}
    rooms = code_deps(stage)
    assert {room for room in rooms if not any(path.is_relative_to(room) for path in loaded)} == set()
    assert all((ROOT / room).exists() for room in rooms)


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


def test_check_comes_first_and_reads_all_but_execution() -> None:
    assert set(STAGES["check"]["params"]) == set(PARAMS.model_fields) - {"execution"}
    assert {"checkpoints", "envs"} <= set(STAGES["check"]["deps"])
    assert ["check", *CHECKED] == list(STAGES)


@pytest.mark.parametrize("stage", CHECKED)
def test_a_stage_depends_on_its_file_of_check_alone(stage: str) -> None:
    deps = [dep for dep in STAGES[stage]["deps"] if dep.split("/")[0] in ("checkpoints", "envs")]
    assert deps == []
    assert [dep for dep in STAGES[stage]["deps"] if "data/checked" in dep] == [f"data/checked/{stage}.json"]


def test_the_artifact_is_what_train_writes() -> None:
    assert yaml.load(ROOT / "dvc.yaml").values["artifacts"]["tagger"]["path"] in STAGES["train"]["outs"]


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


def test_the_curves_that_are_drawn_are_those_that_every_training_has() -> None:
    drawn = {file for plot in PLOTS for each in plot.values() for file in each["y"] if file.endswith(".tsv")}
    assert drawn == {f"plots/training/plots/metrics/{name}.tsv" for name in DRAWN}


def test_every_output_has_one_stage() -> None:
    outs = [out for stage in STAGES.values() for key in ("outs", "metrics", "plots") for out in stage.get(key, [])]
    names = [dep_name(out) for out in outs]
    assert len(set(names)) == len(names)
