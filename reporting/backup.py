"""params.yaml and dvc.lock as they were before an ablation, whose experiments change them.

`dvc exp run` leaves its settings in params.yaml. They are taken out after every cell, and by the next ablation where
one was killed; not, however, where somebody has edited params.yaml in the meantime.
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


def exists() -> bool:
    """Whether an ablation is under way here, or was killed."""
    return (FOLDER / PARAMS).exists()


def take() -> None:
    """Keep both files as they are now. A backup is whole or not there: params.yaml, which marks it, comes last."""
    write_json(_CELL, {})
    for name in (LOCK, PARAMS):
        _copy(name, FOLDER / name)


def expect(changes: Mapping[str, Any]) -> None:
    """Note the settings that the next experiment will leave in params.yaml.

    Args:
        changes: dotted key → value.
    """
    write_json(_CELL, changes)


def put_back() -> None:
    """Give both files their contents from before the grid, and take them off git's index, where DVC stumbles over them.

    Raises:
        UserError: params.yaml has been edited since; both files and the backup are then left as they are.
    """
    if not _is_the_experiments():
        raise UserError(
            f"{PARAMS}: edited while an ablation was running or after it was killed, so settings of its last "
            f"experiment may be in it beside yours. Its contents from before are in {FOLDER / PARAMS}: "
            f"compare the two, save {PARAMS} as you want it, delete the folder {FOLDER}, and run again"
        )
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


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target, "wb") as file:
        file.write(source.read_bytes())
