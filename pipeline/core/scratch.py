"""Tables that a run keeps beside itself: in memory while they are small, on disk as they grow.

So what is sorted, counted or looked up by the million takes a few megabytes of memory. Each is a private database of
SQLite's, whose file lies in `SQLITE_TMPDIR` or `TMPDIR` (else in /var/tmp or /tmp), has no name there and is gone with
the process, however that ends.
"""

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.core.errors import UserError

_CACHE_KILOBYTES = 1000  # of pages, and as much again of what is being sorted


class Scratch:
    """Tables on disk; one thread at a time may use them.

    Args:
        tables: the statements that make them.
    """

    def __init__(self, *tables: str) -> None:
        # check_same_thread: made by one thread, and perhaps used and closed by others
        self._database = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self._database.close)
        for statement in ("PRAGMA journal_mode = OFF", f"PRAGMA cache_size = -{_CACHE_KILOBYTES}", "BEGIN", *tables):
            self.run(statement)

    def fill(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of the rows; what they raise is raised.

        Raises:
            UserError: the disk is full, or cannot be written.
        """
        with _explained():
            self._database.executemany(statement, rows)

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Run a statement that gives no rows; raises as :meth:`fill`."""
        with _explained():
            self._database.execute(statement, values)

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows that a query gives, as they are gone through; raises as :meth:`fill`."""
        with _explained():
            yield from self._database.execute(statement, values)


def key(text: str) -> bytes:
    """A text as it is kept where it is sorted by: in the order of code points, as Python sorts, any text at all."""
    return text.encode("utf-8", "surrogatepass")


def text(key: bytes) -> str:
    """What :func:`key` was made of."""
    return key.decode("utf-8", "surrogatepass")


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UserError(
            f"a temporary file cannot be written or read ({error}); make room in the folder of temporary files, or "
            "name another one in SQLITE_TMPDIR, and run again"
        ) from None
