"""Results by the digest of what was read (a picture's bytes, say) and of the fingerprint of what read it.

The store lies outside the workspace, so a killed run resumes and nothing is read twice; it also provides folders for
whatever else must outlive a stage. Values are bytes: whoever puts them there encodes them. Where the store lies by
default is left to :mod:`pipeline.core.folders`.
"""

import hashlib
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pipeline.core.errors import UserError
from pipeline.core.folders import VARIABLE, default_folder, make
from pipeline.core.locks import locked

T = TypeVar("T")

SCHEMA = 1
"""Version of the files' layout, kept as their user_version."""

_APPLICATION = 0x53524431  # "SRD1", kept as the files' application_id
_WAIT_SECONDS = 120.0  # for another process to end its transaction
_LOOKUP = 512  # keys per query
_KEY_BYTES = 32


def digest(fingerprint: Mapping[str, Any]) -> str:
    """SHA-256 of a fingerprint's JSON, keys sorted.

    Raises:
        TypeError, ValueError: it holds something that is no JSON (NaN included).
    """
    text = json.dumps(fingerprint, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split into lists of `size`, the last one shorter (itertools.batched is younger than our Python)."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def lookups(keys: Iterable[T]) -> Iterator[tuple[str, list[T]]]:
    """Keys in pieces, as many as one query looks up, each with marks for them: ``?,?,?``.

    The last key fills up a piece to a power of two: so queries are few, each of which SQLite keeps prepared.
    """
    for some in batched(keys, _LOOKUP):
        size = 1 << (len(some) - 1).bit_length()
        yield ",".join("?" * size), some + some[-1:] * (size - len(some))


class Store:
    """Values (bytes) by (digest of a fingerprint, digest of the input), one SQLite file per fingerprint.

    A put is one transaction, on disk when the call returns; a process killed at any moment leaves every earlier put
    whole. Several processes and threads may use a store at once. Every value carries a checksum, so that a damaged
    file is reported and never trusted.

    A key is any digest of 32 bytes, in hex: of a picture the SHA-256 of its bytes, of another input the SHA-256 of
    everything that the result depends on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    @classmethod
    def open(cls, folder: str | os.PathLike[str] | None = None) -> Self:
        """Open the store in `folder`, or where :func:`default_folder` says; created if missing.

        Raises:
            UserError: the folder cannot be made or written.
        """
        place = Path(folder).absolute() if folder is not None else default_folder()
        make(place / "results")
        return cls(place)

    def get_many(self, fingerprint: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The values that are stored, by key.

        Args:
            fingerprint: :func:`digest` of what reads.
            keys: digests of inputs, 64 hex digits each; one that is not stored has no entry in the result.

        Raises:
            UserError: the store's file is damaged, newer than this program, or cannot be read.
            ValueError: a key is not a digest.
        """
        found: dict[str, bytes] = {}
        with _explained(self._path(fingerprint)):
            for key, value, checksum in self._select("key, value, checksum", fingerprint, keys):
                if zlib.crc32(value, zlib.crc32(key)) != checksum:
                    raise sqlite3.DatabaseError("a value does not match its checksum")
                found[key.hex()] = value
        return found

    def known(self, fingerprint: str, keys: Sequence[str]) -> set[str]:
        """The keys that have a value; the values are not read. Arguments and errors as of :meth:`get_many`."""
        with _explained(self._path(fingerprint)):
            return {key.hex() for (key,) in self._select("key", fingerprint, keys)}

    def put_many(self, fingerprint: str, values: Mapping[str, bytes]) -> None:
        """Store `values` by key, all or none; a key that is already there keeps its value.

        Args:
            fingerprint: :func:`digest` of what reads.
            values: by digest of the input, 64 hex digits.

        Raises:
            UserError: the disk is full, or the file is damaged or cannot be written.
            ValueError: a key is not a digest.
        """
        path = self._path(fingerprint)
        rows = [
            (raw, value, zlib.crc32(value, zlib.crc32(raw)))
            for raw, value in ((_raw(key), value) for key, value in values.items())
        ]
        with _explained(path):
            connection = self._connection(path)
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany("INSERT OR IGNORE INTO results (key, value, checksum) VALUES (?, ?, ?)", rows)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def work_folder(self, *key: str) -> Path:
        """A folder for `key` alone, created if missing; for checkpoints of a training run, say."""
        folder = self.folder / "work" / digest({"key": list(key)})[:32]
        make(folder)
        return folder

    def close(self) -> None:
        """Close every connection, of whichever thread."""
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
            self._local = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _select(self, columns: str, fingerprint: str, keys: Sequence[str]) -> Iterator[Any]:
        """The rows that there are of `keys`."""
        path = self._path(fingerprint)
        if not path.exists():
            return
        connection = self._connection(path)
        for marks, some in lookups(map(_raw, keys)):
            yield from connection.execute(
                f"SELECT {columns} FROM results WHERE key IN ({marks})",  # noqa: S608  (only names and marks)
                some,
            )

    def _path(self, fingerprint: str) -> Path:
        return self.folder / "results" / f"{fingerprint[:32]}.sqlite3"

    def _connection(self, path: Path) -> sqlite3.Connection:
        """This thread's connection to `path`; the file and its table are created if missing."""
        mine: dict[Path, sqlite3.Connection] | None = getattr(self._local, "connections", None)
        if mine is None:
            mine = self._local.connections = {}
        connection = mine.get(path)
        if connection is None:
            # check_same_thread: used by one thread alone, but closed by whoever closes the store
            connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                # Turning a new file to WAL does not wait for other processes that do the same.
                with locked(self.folder / "results" / ".making.lock"):
                    _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
            mine[path] = connection
            with self._guard:
                self._connections.append(connection)
        return connection


def _raw(key: str) -> bytes:
    raw = bytes.fromhex(key)
    if len(raw) != _KEY_BYTES:
        raise ValueError(f"key {key!r}: {len(raw)} bytes; expected a digest of {_KEY_BYTES}")
    return raw


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if version > SCHEMA and application == _APPLICATION:
        raise UserError(
            f"{path}: its layout, {version}, is newer than this Sightread knows ({SCHEMA}). Get the newer "
            f"Sightread, or set {VARIABLE} to another folder; the pictures are then read again"
        )
    if version == 0 and application == 0 and not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        # Readers go on while another process writes; where the file system cannot (a network share), it stays as it is.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE results (key BLOB NOT NULL UNIQUE, value BLOB NOT NULL, checksum INTEGER NOT NULL)"
        )
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")
    elif version != SCHEMA or application != _APPLICATION:
        raise sqlite3.DatabaseError(f"not a file of the store (application {application:#x}, layout {version})")
    connection.execute("PRAGMA synchronous = FULL")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what SQLite says into what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorname", "") or ""
        if code.startswith("SQLITE_FULL"):
            raise UserError(
                f"{path}: the disk is full; make room, or set {VARIABLE} to a folder elsewhere, and run "
                "again: what was read so far is kept"
            ) from None
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise UserError(
                f"{path}: another process has held the store for {_WAIT_SECONDS:.0f} s; end it or wait, then run again"
            ) from None
        raise UserError(
            f"{path}: the store cannot be used ({error}); check that the folder can be written and has room, "
            f"or set {VARIABLE} to another"
        ) from None
    except sqlite3.ProgrammingError:  # ours, not the file's
        raise
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path}: this file of the store is damaged ({error}). Move it away or delete it, with its "
            "-wal and -shm: nothing is lost but time, its pictures are read again"
        ) from None
