"""The train stage killed at five moments: the next run goes on, and ends with the very same tagger and curves."""

import hashlib
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ner.training.work_folder import COMPLETE
from pipeline.core import records
from pipeline.core.files import write_json
from tests.ner.conftest import ambiguous_views, small_params, xlm_r_folder
from tests.project import Project, wait_for
from tests.robustness.conftest import light_project

__all__ = ["xlm_r_folder"]  # a fixture
TRAIN = ("python", "-m", "stages.train")
FOLDS = ("python", "-m", "stages.folds", "2", "folds")
EPOCHS = 8


def training_project(folder: Path, encoder: Path) -> Project:
    project = light_project(folder, 0)
    settings = small_params(encoder, epochs=EPOCHS).model_dump(mode="json", exclude={"weights"})
    project.edit(train=settings, execution={"device": "cpu"})
    project.environment = {"OMP_NUM_THREADS": "1"}
    for split, count, seed in (("train", 300, 0), ("dev", 16, 1), ("unlabelled", 0, 0)):
        records.write(folder / "data/views" / f"{split}.jsonl", ambiguous_views(count, seed))
    write_json(folder / "data/views/sources.json", {"data": "set", "contexts": {}, "tensors": {}})
    return project


def written(project: Project, *folders: str) -> dict[str, str]:
    """Every file of the tagger and its curves, or of these folders, by digest; DVCLive's time stamps aside."""
    found = {}
    for folder in folders or ("models/tagger", "plots/training"):
        for path in sorted((project.folder / folder).rglob("*")):
            if path.is_file():
                found[path.relative_to(project.folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def whole_checkpoints(project: Project) -> int:
    return len(list((project.store / "work").glob(f"*/checkpoint-*/{COMPLETE}")))


@pytest.mark.slow  # some six starts of torch
@pytest.mark.timeout(900)
def test_training_killed_at_five_moments_ends_the_same(tmp_path: Path, xlm_r_folder: Path) -> None:
    undisturbed = training_project(tmp_path / "undisturbed", xlm_r_folder)
    undisturbed.run(*TRAIN)
    expected = written(undisturbed)
    assert "models/tagger/model.safetensors" in expected
    assert any(name.endswith("f1.tsv") for name in expected)
    project = training_project(tmp_path / "project", xlm_r_folder)
    work, rng, steps = project.store / "work", random.Random(1), []

    def progress() -> int:
        return max((int(path.name.partition("-")[2]) for path in work.glob("*/checkpoint-*")), default=0)

    for _ in range(5):
        before = progress()
        process = project.start(*TRAIN)
        wait_for(lambda before=before: progress() > before, 120)  # a checkpoint begins to be written …
        time.sleep(rng.uniform(0, 0.05))  # … and the kill comes while it is, or after it
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it was through before the fifth kill: more epochs"
        steps.append(progress())
    assert steps == sorted(set(steps))
    output = project.run(*TRAIN)
    assert "resuming after epoch" in output
    assert written(project) == expected
    assert list(work.glob("*/checkpoint-*")) == [], "of the training under way, only the tagger is left"


@pytest.mark.slow  # nine starts of torch
@pytest.mark.timeout(900)
def test_folds_killed_at_four_moments_end_the_same(tmp_path: Path, xlm_r_folder: Path) -> None:
    """In a fold's training, as its tagger is being written, in the next fold's training, as that one's is written."""
    undisturbed = training_project(tmp_path / "undisturbed", xlm_r_folder)
    undisturbed.run(*FOLDS)
    expected = written(undisturbed, "folds")
    assert {"folds/1/fold.json", "folds/1/model.safetensors", "folds/2/model.safetensors"} <= set(expected)
    project = training_project(tmp_path / "project", xlm_r_folder)
    for fold in (1, 2):
        known = {path.parent for path in (project.store / "work").glob(f"*/checkpoint-*/{COMPLETE}")}

        def trains(known: set[Path] = known) -> bool:
            return any(path.parent not in known for path in (project.store / "work").glob(f"*/checkpoint-*/{COMPLETE}"))

        def writes(fold: int = fold) -> bool:
            return (project.folder / "folds" / str(fold)).exists()

        for moment in (trains, writes):
            process = project.start(*FOLDS)
            wait_for(moment, 240)
            process.kill()
            assert process.wait() == -signal.SIGKILL, "it was through before the last kill: more epochs"
    output = project.run(*FOLDS)
    assert "folds/1: is there" in output
    assert written(project, "folds") == expected
    assert project.run(*FOLDS).count(": is there") == 2


@pytest.mark.slow  # two starts of torch
def test_sigterm_and_a_second_run_of_a_training(tmp_path: Path, xlm_r_folder: Path) -> None:
    project = training_project(tmp_path / "project", xlm_r_folder)
    process = project.start(*TRAIN)
    wait_for(lambda: whole_checkpoints(project) > 0, 120)
    process.terminate()
    assert process.wait(60) == 143
    assert not (project.folder / "models/tagger").exists()
    processes = [project.start(*TRAIN), project.start(*TRAIN)]
    assert [process.wait(200) for process in processes] == [0, 0], (
        "the second waits, then takes what the first has trained"
    )


@pytest.mark.slow  # two trainings
def test_two_workspaces_that_train_the_same_take_turns(tmp_path: Path, xlm_r_folder: Path) -> None:
    """They share a work folder, whose checkpoints the one would delete while the other trains on from them."""
    one, other = (training_project(tmp_path / name, xlm_r_folder) for name in ("one", "other"))
    other.store = one.store
    for project in (one, other):
        project.edit(train={"epochs": 3})
    first = one.start(*TRAIN)
    wait_for(lambda: whole_checkpoints(one) > 0, 120)
    first.send_signal(signal.SIGSTOP)  # so that it is still training when the other comes
    command, options = other.command(*TRAIN)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options) as second:
        assert second.stderr is not None
        said = f"another workspace is training the same (process {first.pid}); waiting for it to end"
        assert said in second.stderr.readline()
        first.send_signal(signal.SIGCONT)
        assert first.wait(120) == 0
        second.communicate(timeout=120)
    assert second.returncode == 0
    assert written(one) == written(other)
