"""The work folder of a training: checkpoints to go on from, and the finished tagger until it is safely elsewhere.

A folder belongs to one training (the caller makes it from everything that decides the result), wherever it lies: no
path in it is believed. A finished training leaves its tagger behind, so that a run that was killed before DVC recorded
it, or one that waited for the same training, takes it; only the KEPT newest stay. What trains is
:mod:`ner.training.run`'s.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerState

from pipeline.core.files import write_json
from pipeline.core.hashes import file_digest

KEPT = 3  # finished trainings whose taggers stay in one store
COMPLETE = "complete"  # a file, written last, that marks a checkpoint as whole: its files' sizes and digests
STATE_FILE = "trainer_state.json"
_FINISHED = "finished.json"  # likewise of the finished tagger, with what was logged of each epoch
_TAGGER = "tagger"
_REMOVED = ".removed"  # ends the names of folders whose deletion has begun


def mark_complete(checkpoint: Path) -> None:
    """Mark a checkpoint as whole, once all of it is written."""
    write_json(checkpoint / COMPLETE, _listing(checkpoint))


def is_complete(checkpoint: Path, *, by_content: bool = False) -> bool:
    """Whether all the files are there that :func:`mark_complete` listed, each of its size.

    The list also tells when a kill struck while a checkpoint was being deleted, its mark last.

    Args:
        by_content: whether to read the files and compare their digests, too.
    """
    expected = _read(checkpoint / COMPLETE)
    return expected is not None and _matches(checkpoint, expected, by_content)


def clean(work: Path) -> None:
    """Make the folder, and remove checkpoints that are damaged or written in part, saying so."""
    work.mkdir(parents=True, exist_ok=True)
    for folder in work.parent.glob(f"*{_REMOVED}"):
        shutil.rmtree(folder, ignore_errors=True)
    for checkpoint in work.glob("checkpoint-*"):
        if is_complete(checkpoint, by_content=True):
            continue
        if (checkpoint / COMPLETE).exists():
            print(f"train: {checkpoint} is damaged and not used; it is deleted", file=sys.stderr)
        shutil.rmtree(checkpoint)


def last_checkpoint(work: Path) -> Path | None:
    """The latest whole checkpoint beside which the best one so far is whole, too."""
    whole = {_step(folder): folder for folder in work.glob("checkpoint-*") if is_complete(folder)}
    for _, folder in sorted(whole.items(), reverse=True):
        if state_of(folder).best_global_step in {None, *whole}:
            return folder
    return None


def state_of(checkpoint: Path) -> TrainerState:
    """The Trainer's state at a checkpoint, its path of the best one being that in this work folder."""
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    relocate(state, checkpoint.parent)
    return state


def relocate(state: TrainerState, work: Path) -> None:
    """Point a state at the best checkpoint in `work`, which may have been moved since it was written."""
    if state.best_global_step is not None:
        state.best_model_checkpoint = str(work / f"checkpoint-{state.best_global_step}")


def has_progress(work: Path) -> bool:
    """Whether a training that begins here would not begin from nothing."""
    return (work / _FINISHED).exists() or last_checkpoint(work) is not None


def finish(work: Path, tagger: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Keep a finished tagger, in place of the checkpoints, and remove the oldest finished trainings beside it.

    Args:
        work: the training's folder.
        tagger: the finished tagger, in :func:`unfinished_tagger`.
        history: what was logged of each epoch.
    """
    write_json(work / _FINISHED, {"files": _listing(tagger), "history": list(history)})
    for entry in work.iterdir():
        if entry.name not in (_FINISHED, tagger.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    finished = sorted(work.parent.glob(f"*/{_FINISHED}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for old in finished[KEPT:]:
        removed = old.parent.with_name(
            f"{old.parent.name}{_REMOVED}"
        )  # a kill half-way leaves nothing that looks whole
        os.replace(old.parent, removed)
        shutil.rmtree(removed, ignore_errors=True)


def unfinished_tagger(work: Path) -> Path:
    """Where the tagger of a training is saved before :func:`finish`."""
    return work / _TAGGER


def finished_history(work: Path) -> list[dict[str, float]] | None:
    """What was logged of each epoch of a finished training; None where there is none, or it is damaged."""
    found = _read(work / _FINISHED)
    if found is None or not _matches(work / _TAGGER, found["files"], by_content=True):
        return None
    history: list[dict[str, float]] = found["history"]
    return history


def take(work: Path, output: Path) -> None:
    """Copy the finished tagger, which thereby becomes the newest of those that are kept."""
    (work / _FINISHED).touch()
    output.mkdir(parents=True, exist_ok=True)
    for file in (work / _TAGGER).iterdir():
        shutil.copyfile(file, output / file.name)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _listing(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in _files(folder)
    }


def _matches(folder: Path, expected: Mapping[str, Any], by_content: bool) -> bool:
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    return files.keys() == expected.keys() and all(
        path.stat().st_size == expected[name]["bytes"]
        and (not by_content or file_digest(path) == expected[name]["sha256"])
        for name, path in files.items()
    )


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != COMPLETE]
