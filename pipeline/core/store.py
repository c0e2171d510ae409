"""What has been read off a picture, kept by the hash of its bytes and the fingerprint of what read it.

The store lies outside the workspace, so a killed run resumes and no picture is read twice; it also lends folders to
whatever else must outlive a stage, and the locks that keep two copies of a stage apart. What the values mean is left
to those who put them there.
"""

import fcntl
import hashlib
import json
import os
import sqlite3
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pipeline.core.errors import UserError

T = TypeVar("T")

VARIABLE = "SIGHTREAD_STORE"
SCHEMA = 1
"""Version of the files' layout, kept as their user_version."""

_APPLICATION = 0x53524431  # "SRD1", kept as the files' application_id
_WAIT_SECONDS = 120.0  # for another process to end its transaction
_LOOKUP = 500  # keys a query


def default_folder() -> Path:
    """The folder named by ``SIGHTREAD_STORE``, else ``sightread`` in the user's cache folder.

    Raises:
        UserError: the variable names no absolute folder.
    """
    if (folder := given_folder(VARIABLE)) is not None:
        return folder
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "sightread"
    cache = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "sightread"


def given_folder(variable: str) -> Path | None:
    """The folder that a variable of the environment names, if it names one.

    Raises:
        UserError: it names no absolute folder.
    """
    given = os.environ.get(variable)
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_absolute():
        raise UserError(f"{variable}={given}: expected an absolute folder, as stages run in several folders")
    return folder


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


class Store:
    """Values (JSON texts) by (digest of a fingerprint, SHA-256), one SQLite file a fingerprint.

    A put is one transaction, on disk when the call returns; a process killed at any moment leaves every earlier put
    whole. Several processes and threads may use a store at once. Every value carries a checksum, so that a damaged
    file is reported and never believed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    @classmethod
    def open(cls, folder: str | os.PathLike[str] | None = None) -> Self:
        """Open the store in `folder`, or where :func:`default_folder` says; made where it is not there.

        Raises:
            UserError: the folder cannot be made or written.
        """
        place = Path(folder).absolute() if folder is not None else default_folder()
        _make(place / "results")
        return cls(place)

    def get_many(self, fingerprint: str, keys: Sequence[str]) -> dict[str, str]:
        """The values of those `keys` (SHA-256 in hex) that are there, each as the text that was put.

        Raises:
            UserError: the store's file is damaged, newer than this program, or not to be read.
        """
        path = self._path(fingerprint)
        if not path.exists():
            return {}
        found: dict[str, str] = {}
        with _explained(path):
            connection = self._connection(path)
            for some in batched(keys, _LOOKUP):
                marks = ",".join("?" * len(some))
                query = f"SELECT key, value, checksum FROM results WHERE key IN ({marks})"  # noqa: S608  (only marks)
                for key, value, checksum in connection.execute(query, [bytes.fromhex(key) for key in some]):
                    if zlib.crc32(value, zlib.crc32(key)) != checksum:
                        raise sqlite3.DatabaseError("a value does not match its checksum")
                    found[key.hex()] = value.decode()
        return found

    def put_many(self, fingerprint: str, values: Mapping[str, str]) -> None:
        """Keep `values`, all or none; what is there already stays as it is.

        Raises:
            UserError: the disk is full, the file is damaged or may not be written.
        """
        path = self._path(fingerprint)
        rows = []
        for key, text in values.items():
            raw, value = bytes.fromhex(key), text.encode()
            rows.append((raw, value, zlib.crc32(value, zlib.crc32(raw))))
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
        """A folder of its own for `key`, made where it is not there: for checkpoints of a training under way, say."""
        folder = self.folder / "work" / digest({"key": list(key)})[:32]
        _make(folder)
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

    def _path(self, fingerprint: str) -> Path:
        return self.folder / "results" / f"{fingerprint[:32]}.sqlite3"

    def _connection(self, path: Path) -> sqlite3.Connection:
        """This thread's connection to `path`; the file and its table are made where they are not there."""
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


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    if version > SCHEMA and application == _APPLICATION:
        raise UserError(
            f"{path}: its layout, {version}, is newer than this Sightread knows ({SCHEMA}). Get the newer "
            f"Sightread, or set {VARIABLE} to another folder; the pictures are then read anew"
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
            f"{path}: the store cannot be used ({error}); see that the folder may be written and has room, "
            f"or set {VARIABLE} to another"
        ) from None
    except sqlite3.ProgrammingError:  # ours, not the file's
        raise
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path}: this file of the store is damaged ({error}). Move it away or delete it, with its "
            "-wal and -shm: nothing is lost but time, its pictures are read again"
        ) from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the store's folder cannot be made ({error.strerror}); set {VARIABLE} to a folder "
            "that may be written"
        ) from None


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold the file's lock, which the system drops with the process. `waiting` is said where another holds it."""
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise UserError(
            f"{path}: the lock cannot be made ({error.strerror}); set {VARIABLE} to a folder that may be written"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                file.seek(0)
                print(waiting.replace("{holder}", file.read().strip() or "unknown"), file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        if waiting:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


@contextmanager
def stage_lock(name: str, workspace: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Let one copy of a stage run at a time in one workspace (default: the working folder); a second one waits.

    DVC, killed, leaves its stage running and lets the next `dvc repro` start another: this is what keeps them apart.
    The lock dies with the process that holds it, however it dies.

    Raises:
        UserError: the store's folder, where the lock lies, cannot be written.
    """
    place = os.path.realpath(workspace or os.getcwd())
    folder = default_folder() / "locks"
    _make(folder)
    path = folder / f"{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}-{name}.lock"
    with locked(
        path, f"{name}: another run of this stage is under way in {place} (process {{holder}}); waiting for it to end"
    ):
        yield
