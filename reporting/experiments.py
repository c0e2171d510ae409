"""DVC experiments one after another in the workspace, whose params.yaml and results are put back however this ends.

What ablations and searches share. DVC runs what an experiment changes and takes the rest from its run cache.
"""

import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.core.errors import UserError
from reporting import backup
from reporting.backup import PARAMS
from reporting.grid import TARGET, command


def recover() -> None:
    """Put back what experiments left in params.yaml where they were killed.

    Raises:
        UserError: params.yaml has been edited since.
    """
    if backup.exists():
        backup.put_back()
        print(f"{PARAMS} put back: an ablation or a search was killed before it could", file=sys.stderr)


@contextmanager
def params_put_back() -> Iterator[None]:
    """Bring the pipeline up to date, and leave params.yaml and the results as they were, however this ends."""
    dvc(["repro", TARGET], "the pipeline, before the experiments")
    backup.take()
    try:
        yield
    finally:
        backup.put_back()
        backup.drop()
    dvc(["repro", TARGET], "the results as they were")  # from the run cache


def run(name: str, changes: Mapping[str, Any], what: str) -> None:
    """Run an experiment, whose results are then in the workspace.

    Args:
        name: of the experiment; there is none of this name.
        changes: dotted key → value, of params.yaml.
        what: it is, for messages.

    Raises:
        UserError: it failed.
    """
    backup.put_back()  # an experiment leaves its settings there: the next must not inherit them
    backup.expect(changes)
    dvc(command(name, changes), what)


def forget(names: Collection[str]) -> None:
    """Remove experiments of these names, whose places DVC else refuses; what they computed stays in its run cache."""
    there = [name for name in dvc(["exp", "list", "--name-only"], "the list of experiments").split() if name in names]
    if there:
        dvc(["exp", "remove", *there], "an earlier run's experiments")


def dvc(arguments: Sequence[str], what: str) -> str:
    """Run a command of DVC's; otherwise as :func:`python`."""
    return python(["dvc", *arguments], what)


def python(arguments: Sequence[str], what: str) -> str:
    """Run a module with arguments; return what it said.

    Raises:
        UserError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise UserError(
            f"{what}: `python -m {' '.join(arguments)}` failed; its last lines:\n"
            + "\n".join(done.stdout.splitlines()[-15:])
        )
    return done.stdout
