"""Tables that a run keeps beside itself: in memory while they are small, on disk as they grow.

So what is sorted, counted or looked up by the million takes a few megabytes of memory. Each is a private database of
SQLite's, whose file lies in `SQLITE_TMPDIR` or `TMPDIR` (else in /var/tmp or /tmp), has no name there and is gone with
the process, however that ends.
"""

import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
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
        try:
            self._database.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise _unusable(error) from None

    def run(self, statement: str, values: Sequence[Any] = ()) -> bool:
        """Run a statement that gives no rows; return whether it has changed one. Raises as :meth:`fill`."""
        try:
            return self._database.execute(statement, values).rowcount > 0
        except sqlite3.OperationalError as error:
            raise _unusable(error) from None

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows that a query gives, as they are gone through; raises as :meth:`fill`."""
        try:
            yield from self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise _unusable(error) from None


class Distinct:
    """Texts in the order of their code points, each once.

    Args:
        texts: whatever they are, any number of times.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._table = Scratch("CREATE TABLE given (text BLOB)")
        self._table.fill("INSERT INTO given VALUES (?)", ((as_key(text),) for text in texts))
        self._table.run("CREATE TABLE found AS SELECT text FROM given GROUP BY text ORDER BY text")
        self._table.run("DROP TABLE given")

    def __len__(self) -> int:
        [(count,)] = self._table.rows("SELECT count(*) FROM found")
        return int(count)

    def __iter__(self) -> Iterator[str]:
        return (as_text(key) for (key,) in self._table.rows("SELECT text FROM found ORDER BY rowid"))


class Sorted:
    """Texts in the order of the code points of their keys; those with one key in the order in which they came.

    Args:
        pairs: key and text.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._table = Scratch("CREATE TABLE given (key BLOB, text BLOB)")
        self._table.fill("INSERT INTO given VALUES (?, ?)", ((as_key(key), as_key(text)) for key, text in pairs))

    def __iter__(self) -> Iterator[str]:
        return (as_text(text) for (text,) in self._table.rows("SELECT text FROM given ORDER BY key, rowid"))


def as_key(text: str) -> bytes:
    """Any text at all, as bytes whose order is that of code points, as Python sorts."""
    return text.encode("utf-8", "surrogatepass")


def as_text(key: bytes) -> str:
    """What :func:`as_key` was made of."""
    return key.decode("utf-8", "surrogatepass")


def _unusable(error: sqlite3.OperationalError) -> UserError:
    return UserError(
        f"a temporary file cannot be written or read ({error}); make room in the folder of temporary files, or name "
        "another one in SQLITE_TMPDIR, and run again"
    )
