"""params.yaml and dvc.lock as they were before an ablation or a search, whose experiments change them.

`dvc exp run` leaves its settings in params.yaml. They are taken out after every experiment, and by the next ablation or
search where one was killed; not, however, where somebody has edited params.yaml in the meantime. A killed one also
leaves the experiment's commit checked out in place of the branch.
"""

import copy
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.files import atomic_write, read_json, write_json
from pipeline.settings import yaml

PARAMS, LOCK = Path("params.yaml"), Path("dvc.lock")
FOLDER = Path(".dvc/tmp/ablation")
_CELL = FOLDER / "cell.json"
_HEAD = FOLDER / "head.json"
_EXPERIMENT = "dvc: commit experiment "
"""How the message of an experiment's commit begins."""


def exists() -> bool:
    """Whether an ablation or a search is under way here, or was killed."""
    return (FOLDER / PARAMS).exists()


def take() -> None:
    """Keep both files as they are now. A backup is whole or not there: params.yaml, which marks it, comes last."""
    write_json(_CELL, {})
    write_json(_HEAD, {"branch": _git("symbolic-ref", "HEAD"), "commit": _git("rev-parse", "--verify", "HEAD")})
    for name in (LOCK, PARAMS):
        _copy(name, FOLDER / name)


def expect(changes: Mapping[str, Any]) -> None:
    """Note the settings that the next experiment will leave in params.yaml.

    Args:
        changes: dotted key → value.
    """
    write_json(_CELL, changes)


def put_back() -> None:
    """Give both files their contents from before, and take them off git's index, where DVC stumbles over them.

    Raises:
        UserError: params.yaml has been edited since; both files and the backup are then left as they are.
    """
    if not _is_the_experiments():
        raise UserError(
            f"{PARAMS}: edited while an ablation or a search was running or after it was killed, so settings of its "
            f"last experiment may be in it beside yours. Its contents from before are in {FOLDER / PARAMS}: "
            f"compare the two, save {PARAMS} as you want it, delete the folder {FOLDER}, and run again"
        )
    _put_head_back()
    for name in (LOCK, PARAMS):
        _copy(FOLDER / name, name)
    subprocess.run(["git", "reset", "--quiet", "--", str(LOCK), str(PARAMS)], check=True, stdout=subprocess.DEVNULL)


def drop() -> None:
    """Forget the backup."""
    (FOLDER / PARAMS).unlink()  # first: what is left without it is no backup
    shutil.rmtree(FOLDER)


def _is_the_experiments() -> bool:
    """Whether params.yaml says what it said before the grid, or that with the settings of the last experiment."""
    before = yaml.load(FOLDER / PARAMS).values
    during = copy.deepcopy(before)
    for key, value in read_json(_CELL, "evaluate").items():
        *parents, name = key.split(".")
        section = during
        for parent in parents:
            section = section[parent]
        section[name] = value
    return yaml.load(PARAMS).values in (before, during)


def _put_head_back() -> None:
    """Check the branch out again that DVC leaves while an experiment runs; not where somebody has gone elsewhere."""
    before = read_json(_HEAD, "evaluate")
    head = _git("rev-parse", "--verify", "HEAD")
    if head is None or _git("symbolic-ref", "HEAD") is not None:
        return
    of_experiment = (_git("log", "-1", "--format=%s", head) or "").startswith(_EXPERIMENT)
    start = _git("rev-parse", "--verify", f"{head}^") if of_experiment and head != before["commit"] else head
    if start != before["commit"]:
        return
    if before["branch"] is not None:
        _git("symbolic-ref", "HEAD", before["branch"])
    else:
        _git("update-ref", "--no-deref", "HEAD", before["commit"])


def _git(*arguments: str) -> str | None:
    """What git says; None where it fails, as it does of a branch where none is checked out."""
    done = subprocess.run(
        ["git", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8", check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target, "wb") as file:
        file.write(source.read_bytes())
