"""Locks between processes, which the system drops with the process that holds one, however it ends.

They are filelock's on flock; its fallback for file systems without flock, a file that a killed process would leave
behind, is not used. Beside a lock that others may wait for long lies a file with its holder's process id.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.core.errors import UserError
from pipeline.core.folders import VARIABLE, default_folder, make

_POLL_SECONDS = 0.05


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold the lock `path` in the body of a `with`; wait as long as another process or thread holds it.

    Args:
        path: the lock's file, created if missing; its folder must be there.
        waiting: what to print on stderr before waiting, with ``{holder}`` in place of the holder's process id.

    Raises:
        UserError: the file cannot be created or locked.
    """
    lock = _lock(path)
    holder = path.with_name(f"{path.name}.pid")
    if not _acquired(lock):
        if waiting:
            print(waiting.replace("{holder}", _holder(holder)), file=sys.stderr, flush=True)
        _acquired(lock, wait=True)
    try:
        if waiting:
            with suppress(OSError):  # a full disk: the lock holds, only its holder is not named
                holder.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        lock.release()


@contextmanager
def locked_at_once(path: Path) -> Iterator[bool]:
    """As :func:`locked`, without waiting: gives False, and holds nothing, where another process or thread holds it."""
    lock = _lock(path)
    held = _acquired(lock)
    try:
        yield held
    finally:
        if held:
            lock.release()


def _lock(path: Path) -> FileLock:
    # Not a singleton and not shared by threads: two threads that take the same lock exclude each other.
    return FileLock(path, fallback_to_soft=False, is_singleton=False)


def _acquired(lock: FileLock, wait: bool = False) -> bool:
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL_SECONDS)
    except Timeout:
        return False
    except OSError as error:
        raise UserError(
            f"{lock.lock_file}: cannot be locked ({error.strerror or error}); set {VARIABLE} to a folder that can be "
            "written, on a file system with locks"
        ) from None
    return True


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() or "unknown"
    except OSError:
        return "unknown"


@contextmanager
def stage_lock(name: str, workspace: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Let one copy of a stage run at a time in one workspace; a second one says so and waits.

    DVC, killed, leaves its stage running and lets the next `dvc repro` start another: this keeps them apart.

    Args:
        name: of the stage.
        workspace: default: the working folder.

    Raises:
        UserError: the store's folder, where the lock lies, cannot be written.
    """
    place = os.path.realpath(workspace or os.getcwd())
    folder = default_folder() / "locks"
    make(folder)
    path = folder / f"{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}-{name}.lock"
    waiting = f"{name}: another run of this stage is active in {place} (process {{holder}}); waiting for it to end"
    with locked(path, waiting):
        yield
