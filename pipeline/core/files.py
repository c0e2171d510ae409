"""Files that stages write and read: whole or not at all, JSON Lines, JSON.

A file is written whole or not at all, so whoever finds one can trust it. What the rows mean is left to
:mod:`pipeline.core.records`.
"""

import errno
import fcntl
import glob
import io
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple

from pipeline.core.errors import UserError, absent


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success flush it to disk and rename it over `path`, else remove it.

    What killed writers of the same file left behind is removed first.

    Raises:
        UserError: the folder may not be written, or the disk is full.
    """
    path = Path(path)
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, temporary = _claim(path)
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        with open(handle, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, _RIGHTS & ~_umask())
            os.replace(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and (error.errno in _DISK or error.filename == temporary):
            raise _unwritten(path, error) from None
        raise


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write to an open file fails with; anything else that fails in the body of a `with` has its own cause."""


def _unwritten(path: Path, error: OSError) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "make room and run again" if full else "see that its folder may be written, and run again"
    return UserError(f"{path}: cannot be written: {error.strerror}; {remedy}")


def _claim(path: Path) -> tuple[int, str]:
    """A new temporary file for `path`, locked as long as it is open: what tells it from one of a killed writer."""
    while True:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:200]}.", suffix=".tmp")
        with suppress(OSError):  # a file system without locks; nothing is swept there either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, temporary
        os.close(handle)  # swept by another writer before it was locked


def _sweep(path: Path) -> None:
    for stale in path.parent.glob(f".{glob.escape(path.name[:200])}.*.tmp"):
        with suppress(OSError), open(stale, "rb") as file:  # another writer's: it holds the lock, or is gone already
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stale.unlink()


def follow_umask(path: Path) -> None:
    """Give a file that a library has written for its owner alone the rights that any new file has."""
    if path.stat().st_mode & 0o077 == 0:
        path.chmod(_RIGHTS & ~_umask())


_RIGHTS = 0o666  # of a new file, less the umask


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line, atomically; return how many."""
    count = 0
    with atomic_write(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write one JSON document, indented, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, ensure_ascii=False, allow_nan=False, indent=2)
        file.write("\n")


def read_json(path: Path, stage: str) -> dict[str, Any]:
    """Read the JSON object that a stage has written.

    Raises:
        UserError: the file is missing or holds something else; the message names the stage.
    """
    try:
        value = json.loads(contents(path))
    except FileNotFoundError:
        raise absent(path, stage) from None
    except ValueError as error:
        raise UserError(
            f"{path}: not JSON ({error}); run the stage that writes it again: dvc repro --force --single-item {stage}"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object, found {type(value).__name__}")
    return value


def portable(path: str | PurePath) -> str:
    """A path below the project as it is; of any other its name alone, for it tells of a machine."""
    place = PurePath(path)
    return place.name if place.is_absolute() or place.parts[:1] == ("~",) or ".." in place.parts else str(path)


def require_regular(path: str | os.PathLike[str]) -> None:
    """See that reading a file will not wait for a writer or go on forever, as that of a pipe or a device may.

    Raises:
        UserError: it is something other than a file.
        OSError: there is nothing, or it may not be looked at.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
        raise UserError(f"{path}: {kinds.get(stat.S_IFMT(mode), 'a device')}; expected a file")


def contents(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file; raises as :func:`require_regular`."""
    require_regular(path)
    return Path(path).read_bytes()


def numbered_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Lines of a text file with their numbers from 1, without their ends; blank ones too.

    Lines end at LF, CRLF or CR CR LF (CRLF that was written as text on Windows) alone: U+2028, U+0085 and their like
    are part of a token. A byte-order mark is skipped.

    Raises:
        UserError: the file is missing, is no file, cannot be read or is not UTF-8; the message names file and line.
    """
    with opened(path) as file:
        yield from decoded_lines(file, str(path))


class Piece(NamedTuple):
    """Whole lines of a file, and the number of the first of them, from 1."""

    number: int
    data: bytes

    def lines(self, name: str) -> Iterator[tuple[int, str]]:
        """As :func:`numbered_lines`, of these; `name` stands for the file in messages."""
        return decoded_lines(io.BytesIO(self.data), name, self.number)


PIECE_BYTES = 1 << 19
"""Bytes of a piece, or some more where the lines are long."""


def after_line(data: bytes, start: int) -> int:
    """Where the last line of `data` ends that ends behind byte `start`; 0 where none does."""
    return data.rfind(b"\n", start) + 1


def pieces(
    path: str | os.PathLike[str], after: Callable[[bytes, int], int] = after_line, stage: str | None = None
) -> Iterator[Piece]:
    """A file in pieces of :data:`PIECE_BYTES`; raises as :func:`numbered_lines`.

    Args:
        path: the file.
        after: where a piece may end, as far behind a byte as possible: 0 where it may not, and is to be longer.
        stage: that writes the file, where one does.
    """
    number, data = 1, b""
    with opened(path, stage) as file:
        while block := file.read(PIECE_BYTES):
            data, start = data + block, len(data)
            if end := after(data, start):
                yield Piece(number, data[:end])
                number, data = number + data.count(b"\n", 0, end), data[end:]
    if data:
        yield Piece(number, data)


@contextmanager
def opened(path: str | os.PathLike[str], stage: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file for reading; raises as :func:`numbered_lines`, of one that `stage` is to write as :func:`absent`."""
    try:
        require_regular(path)
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") if stage is None else absent(path, stage) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def decoded_lines(file: Iterable[bytes], name: str, first: int = 1) -> Iterator[tuple[int, str]]:
    """As :func:`numbered_lines`, of an open file (stdin, say).

    Args:
        file: its lines.
        name: stands for it in messages.
        first: the number of its first line.
    """
    for number, raw in enumerate(file, start=first):
        try:
            line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}:{number}: not UTF-8 (byte 0x{error.object[error.start]:02x} at place {error.start} of the "
                f"line: {error.reason}); convert it: iconv -f latin1 -t utf-8"
            ) from None
        yield number, line.removesuffix("\n").removesuffix("\r").removesuffix("\r")


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file; raises as :func:`numbered_jsonl`."""
    return (row for _, row in numbered_jsonl(path))


def numbered_jsonl(path: str | os.PathLike[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers and objects of a JSON Lines file; blank lines are passed over.

    Raises:
        UserError: as :func:`numbered_lines`, or a line holds no JSON object.
    """
    for number, line in numbered_lines(path):
        if line.strip():
            yield number, parse_object(line, f"{path}:{number}")


def parse_object(line: str, place: str) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        UserError: it holds none; the message begins with `place`.
    """
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {error.msg} at column {error.colno}") from None
    except (RecursionError, ValueError) as error:  # brackets a thousand deep, a number of 5,000 digits
        raise UserError(f"{place}: not JSON that can be read: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected a JSON object, found {type(row).__name__}")
    return row
