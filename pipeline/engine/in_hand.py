"""Which batches a run has in hand, on disk as long as it lives: what a run that ended without a word was reading.

A native library that crashes takes the process with it, and nothing in there can say on which picture. So the next run
takes over what the files of dead ones name. Reading that with care is left to :mod:`pipeline.engine.apart`.
"""

import json
import os
import secrets
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.folders import make
from pipeline.core.locks import locked, locked_at_once


class InHand:
    """The batches of one run, as SHA-256 of their pictures in hex; made by :func:`taken`.

    `left` has batches of runs that died, and by themselves the pictures that a process has died on.
    """

    def __init__(self, file: Path) -> None:
        self.left: list[list[str]] = []
        self._file = file
        self._begun: list[list[str]] = []

    def begin(self, batch: Sequence[str]) -> None:
        """Write down that the pictures of a batch are being read."""
        self._begun.append(list(batch))
        self._write()

    def end(self, batch: Sequence[str]) -> None:
        """Note that they have been read, with or without success: the process lives. It is written with the next."""
        self._begun.remove(list(batch))

    def leave(self, batches: Iterable[Sequence[str]]) -> None:
        """Put batches in the place of what was left."""
        self.left = [list(batch) for batch in batches]
        self._write()

    def close(self) -> None:
        """Keep but what is left, as the run has come to an end of its own, good or bad."""
        self._begun.clear()
        if self.left:
            self._write()
        else:
            self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        # Not synced: it is to outlive this process, not the machine. A full disk is for the store to name.
        temporary = self._file.with_suffix(".tmp")
        with suppress(OSError):
            temporary.write_text(json.dumps([*self.left, *self._begun]), encoding="ascii")
            os.replace(temporary, self._file)


@contextmanager
def taken(folder: Path, key: str) -> Iterator[InHand]:
    """Take over what dead runs of an extractor had in hand, and keep what this one has during the body of a `with`.

    Args:
        folder: of the files, one for each run; created if missing.
        key: digest of the extractor's fingerprint.

    Raises:
        UserError: the folder cannot be written, or is on a file system without locks.
    """
    make(folder)
    lock = folder / f"{key[:32]}-{os.getpid()}-{secrets.token_hex(4)}.lock"
    with locked(lock):
        mine = InHand(lock.with_suffix(".json"))
        for file in sorted(folder.glob(f"{key[:32]}-*.json")):
            with locked_at_once(file.with_suffix(".lock")) as dead:
                if dead:
                    mine.leave([*mine.left, *_read(file)])
                    _remove(file)
        try:
            yield mine
        finally:
            mine.close()
            if not mine.left:
                lock.unlink(missing_ok=True)


def without(batches: Iterable[Sequence[str]], pictures: Container[str]) -> list[list[str]]:
    """The batches without some pictures, and without batches that nothing is left of."""
    rest = ([one for one in batch if one not in pictures] for batch in batches)
    return [batch for batch in rest if batch]


def _remove(file: Path) -> None:
    for suffix in (".json", ".tmp", ".lock"):
        file.with_suffix(suffix).unlink(missing_ok=True)


def _read(file: Path) -> list[list[str]]:
    """The batches of a run that is dead; none where a power loss has left the file empty, or another run has it."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return []
    return [[str(one) for one in batch] for batch in found]
