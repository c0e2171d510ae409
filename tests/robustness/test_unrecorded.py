"""A training that has ended and that DVC has not recorded, killed or with a full cache: it is not run again."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.settings import yaml
from tests.project import Project, kill_group, stages_run, wait_for

pytestmark = pytest.mark.timeout(900)
TAKEN = "this training has been run to its end; its tagger is taken from"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project without pictures of which all has run that `train` needs."""
    project = Project.make(tmp_path_factory.mktemp("unrecorded") / "project")
    project.environment = {"OMP_NUM_THREADS": "1"}
    project.edit(data={"images": None}, train={"epochs": 1})
    project.edit(**{kind: {"extractor": None} for kind in ("objects", "captions", "ocr")})
    project.repro("views")
    return project


@pytest.fixture
def small_cache(project: Project, tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, less than a tagger takes, that holds the project's DVC cache."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small tmpfs here; run as root to test full disks")
    project.run("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
    yield tmp_path
    project.run("dvc", "config", "--local", "--unset", "cache.dir")
    subprocess.run(["umount", str(tmp_path)], check=True)


def recorded(project: Project) -> bool:
    return "train" in yaml.load(project.folder / "dvc.lock").values["stages"]


def taggers(project: Project) -> dict[str, bytes]:
    """The weights of the workspace's tagger and of those that the store keeps, by place."""
    places = [project.folder / "models", *(project.store / "work").iterdir()]
    return {place.name: (place / "tagger/model.safetensors").read_bytes() for place in places}


@pytest.mark.slow  # DVC itself takes seconds
def test_a_kill_of_dvc_after_the_training_does_not_cost_it(project: Project) -> None:
    process = project.start("dvc", "repro", "train")
    try:
        wait_for(lambda: list((project.store / "work").glob("*")), 300)
        os.kill(process.pid, signal.SIGSTOP)  # so that the stage ends, and DVC is killed before it can look at it
        stages = psutil.Process(process.pid).children()
        wait_for(lambda: all(stage.status() == psutil.STATUS_ZOMBIE for stage in stages), 300)
    finally:
        kill_group(process)
    assert stages
    assert not recorded(project)
    before = taggers(project)
    assert len(before) == 2
    output = project.run("dvc", "repro", "train")
    assert stages_run(output) == ["train"]
    assert TAKEN in output
    assert "epoch 1/1" not in output
    assert recorded(project)
    assert taggers(project) == before


@pytest.mark.slow  # DVC itself takes seconds
def test_a_full_dvc_cache_does_not_cost_a_training(project: Project, small_cache: Path) -> None:
    project.edit(train={"seed": 7})
    output = project.run("dvc", "repro", "train", expect=None)
    assert "epoch 1/1" in output
    assert "ERROR: failed to reproduce 'train': [Errno 28] No space left on device" in output
    assert "Traceback" not in output
    before = taggers(project)
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_cache)], check=True)
    output = project.run("dvc", "repro", "train")
    assert TAKEN in output
    assert "epoch 1/1" not in output
    assert taggers(project) == before
    assert project.run("dvc", "repro", "train").count("didn't change, skipping") == 9


@pytest.mark.slow  # DVC itself takes seconds
def test_force_takes_it_and_an_emptied_work_folder_trains_again(project: Project) -> None:
    output = project.run("dvc", "repro", "--force", "--single-item", "train")
    assert TAKEN in output
    assert "epoch 1/1" not in output
    shutil.rmtree(output.split(TAKEN)[1].split(" (delete that folder")[0].strip())
    output = project.run("dvc", "repro", "--force", "--single-item", "train")
    assert TAKEN not in output
    assert "epoch 1/1" in output
