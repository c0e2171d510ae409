"""The work folder: which checkpoint is gone on from, what a finished training leaves, and for how long."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ner.training import work_folder
from ner.training.work_folder import COMPLETE, is_complete, last_checkpoint
from pipeline.core.files import write_json


def checkpoint(work: Path, step: int, best: int | None = None, path: str = "/elsewhere") -> Path:
    folder = work / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 100)
    (folder / "sub" / "optimizer.pt").write_bytes(b"y" * 10)
    state = {
        "global_step": step,
        "best_global_step": best,
        "best_model_checkpoint": best and f"{path}/checkpoint-{best}",
    }
    write_json(folder / work_folder.STATE_FILE, state)
    work_folder.mark_complete(folder)
    return folder


def test_a_checkpoint_deleted_in_part_is_not_taken_for_whole(tmp_path: Path) -> None:
    """A kill may strike while the Trainer deletes an old checkpoint, its mark last."""
    earlier, later = (checkpoint(tmp_path, step) for step in (5, 10))
    assert last_checkpoint(tmp_path) == later
    (later / "sub" / "optimizer.pt").unlink()
    assert not is_complete(later)
    assert last_checkpoint(tmp_path) == earlier
    (earlier / "model.safetensors").write_bytes(b"x" * 99)
    assert last_checkpoint(tmp_path) is None


@pytest.mark.parametrize("name", ["sub/optimizer.pt", "model.safetensors", work_folder.STATE_FILE])
def test_a_changed_byte_gives_way_to_the_checkpoint_before(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier, later = (checkpoint(tmp_path / "work", step) for step in (5, 10))
    content = bytearray((later / name).read_bytes())
    content[3] ^= 1
    (later / name).write_bytes(content)
    work_folder.clean(tmp_path / "work")
    assert f"{later} is damaged and not used" in capsys.readouterr().err
    assert last_checkpoint(tmp_path / "work") == earlier
    assert not later.exists()


def test_a_checkpoint_whose_best_one_is_gone_is_not_gone_on_from(tmp_path: Path) -> None:
    checkpoint(tmp_path, 5, best=5)
    checkpoint(tmp_path, 15, best=10)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-5"


def test_the_best_checkpoint_is_found_where_the_folder_lies_now(tmp_path: Path) -> None:
    checkpoint(tmp_path / "old", 5, best=5, path=str(tmp_path / "old"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    state = work_folder.state_of(tmp_path / "new" / "checkpoint-5")
    assert state.best_model_checkpoint == str(tmp_path / "new" / "checkpoint-5")


def finished(work: Path, weights: bytes = b"w") -> Path:
    tagger = work_folder.unfinished_tagger(work)
    tagger.mkdir(parents=True)
    (tagger / "model.safetensors").write_bytes(weights)
    work_folder.finish(work, tagger, [{"eval_f1": 0.5}])
    return work


def test_the_newest_finished_trainings_stay_and_older_ones_go(tmp_path: Path) -> None:
    under_way = checkpoint(tmp_path / "under way", 5)
    works = [finished(tmp_path / str(number)) for number in range(work_folder.KEPT)]
    checkpoint(works[0], 7)
    work_folder.take(works[0], tmp_path / "taken")  # so that it is the newest
    finished(tmp_path / "last")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"under way", "taken", "0", "2", "last"}
    assert is_complete(under_way)


def test_a_damaged_finished_tagger_is_not_taken(tmp_path: Path) -> None:
    work = finished(tmp_path / "work", b"weights")
    assert work_folder.finished_history(work) == [{"eval_f1": 0.5}]
    (work / "tagger" / "model.safetensors").write_bytes(b"\0" * 7)
    assert work_folder.finished_history(work) is None


@pytest.mark.parametrize("content", ["", "[]", '{"files": {}'])
def test_marks_that_are_damaged_mark_nothing(tmp_path: Path, content: str) -> None:
    work = finished(tmp_path / "work")
    (work / "finished.json").write_text(content, encoding="utf-8")
    assert work_folder.finished_history(work) is None
    folder = checkpoint(tmp_path, 5)
    (folder / COMPLETE).write_text(content, encoding="utf-8")
    assert not is_complete(folder)


def test_a_mark_lists_every_file(tmp_path: Path) -> None:
    listing: dict[str, Any] = json.loads((checkpoint(tmp_path, 5) / COMPLETE).read_text(encoding="utf-8"))
    assert sorted(listing) == ["model.safetensors", "sub/optimizer.pt", work_folder.STATE_FILE]
