"""Pictures as they come: found inside their folder, read, and each given its row in the manifest.

Whatever is wrong with a picture becomes a status in its row, never a crash and never a substitute. How bytes become
a picture is pipeline/images/decoding.py's business; what is read off the pictures is left to the extractors.
"""

import errno
import hashlib
import os
import re
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.core.records import ImageRow
from pipeline.core.store import Store, batched, digest
from pipeline.images.decoding import DecoderEndedError, Decoders, PictureError, decode
from pipeline.settings.params import ImagesParams

__all__ = ["PictureError", "decode", "list_pictures", "load", "locate", "manifest", "read_bytes"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif")
"""The names that :func:`list_pictures` takes for pictures; elsewhere the content alone decides."""

VERSION = 1
"""Raised when the same bytes would give another row, so that rows kept from earlier runs are not used."""

_DRIVE = re.compile(r"^[A-Za-z]:")
_SETTLED_NS = 2_000_000_000  # a file younger than its file system's clock tick may change without a new time stamp
_WINDOW = 2048  # names looked up at a time
_BATCH = 16  # pictures given to a decoding process at a time,
_BATCH_BYTES = 4_000_000  # or fewer where they are large

_Examined = tuple[ImageRow, str | None]


def locate(folder: Path, name: str) -> Path:
    """The file of picture `name`, a path with ``/`` below `folder`.

    Args:
        folder: the pictures' folder, already resolved (``folder.resolve()``).
        name: as a data set gives it, so anything.

    Raises:
        PictureError: the name would lead out of the folder, by ``..``, a root, a drive or a link.
    """
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or _DRIVE.match(name) or any(p in ("", ".", "..") for p in parts):
        raise PictureError("unsafe_name", "the name does not stay in the images folder")
    path = os.path.join(folder, name)
    try:
        if len(parts) > 1 or stat.S_ISLNK(os.lstat(path).st_mode):
            target = os.path.realpath(path, strict=True)
            if os.path.commonpath((folder, target)) != str(folder):
                raise PictureError("unsafe_name", "a link leads out of the images folder")
    except OSError as error:
        raise _unopened(error) from None
    return Path(path)


def _unopened(error: OSError) -> PictureError:
    absent = isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG
    return PictureError("missing" if absent else "unreadable", error.strerror or type(error).__name__)


def read_bytes(path: Path, limits: ImagesParams) -> bytes:
    """A picture's bytes.

    Raises:
        PictureError: it is not there, is no regular file, may not be read, or is larger than ``limits.max_bytes``.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            return _read(handle, limits)
        finally:
            os.close(handle)
    except OSError as error:
        raise _unopened(error) from None


def _read(handle: int, limits: ImagesParams) -> bytes:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        raise PictureError("unreadable", "not a regular file")
    if status.st_size > limits.max_bytes:
        raise PictureError("too_large", f"{status.st_size} bytes; images.max_bytes is {limits.max_bytes}")
    with open(handle, "rb", closefd=False) as file:
        return file.read(limits.max_bytes)


def load(folder: Path, row: "ImageRow | dict[str, Any]", limits: ImagesParams) -> Image.Image:
    """Decode the picture of a manifest row.

    Raises:
        PictureError: it cannot be read, or is no longer the file that the manifest describes; what is read off it
            must not be kept under the old file's hash.
    """
    name, sha256 = (row.image, row.sha256) if isinstance(row, ImageRow) else (row["image"], row["sha256"])
    data = read_bytes(locate(folder, name), limits)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PictureError("unreadable", "the file has changed since the images stage; run dvc repro images")
    return decode(data, limits)[0]


def list_pictures(folder: Path) -> list[str]:
    """Names of the pictures below `folder`, by their suffix; hidden files and folders are left out.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    names = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(folder)
        names += [
            (below / name).as_posix() for name in files if not name.startswith(".") and name.lower().endswith(SUFFIXES)
        ]
    if not names:
        raise UserError(f"{folder}: no pictures; expected files named {', '.join(SUFFIXES)}")
    return sorted(names)


def manifest(
    names: Iterable[str],
    folder: Path | None,
    limits: ImagesParams,
    store: Store | None = None,
    workers: int | None = None,
) -> Iterator[ImageRow]:
    """One row for each distinct name, sorted by name.

    Every picture is hashed and decoded in full, so that its status is true: by child processes, which end where one
    takes more time or memory than `limits` allow. With a store, the row of a file whose path, size, inode and times
    are as they were is taken from there, and none of its bytes are read.

    Raises:
        UserError: `folder` is not there, or a name cannot be written as UTF-8.
    """
    ordered = sorted(set(names))
    for name in ordered:
        if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            raise UserError(
                f"picture {name!r}: the name holds half a character (a lone surrogate) and cannot be "
                "written as UTF-8; mend the id in the data set"
            )
    if folder is None:
        return (
            ImageRow(name, status="missing", error="the data set has no pictures (data.images is null)")
            for name in ordered
        )
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures (data.root and data.images in params.yaml)")
    return _manifest(ordered, folder.resolve(), limits, store, workers or os.cpu_count() or 1)


def _manifest(
    names: list[str], folder: Path, limits: ImagesParams, store: Store | None, workers: int
) -> Iterator[ImageRow]:
    key = digest({"rows of the manifest": VERSION, "max_pixels": limits.max_pixels, "max_bytes": limits.max_bytes})
    pending: deque[ImageRow | tuple[Future[list[_Examined]], int]] = deque()
    fresh: dict[str, bytes] = {}

    def settle(row: "ImageRow | tuple[Future[list[_Examined]], int]") -> ImageRow:
        if isinstance(row, ImageRow):
            return row
        done, stamp = row[0].result()[row[1]]
        if stamp is not None:
            values = asdict(done)
            del values["image"]
            fresh[stamp] = dumps(values, ensure_ascii=False).encode()
            if store and len(fresh) >= 256:
                store.put_many(key, fresh)
                fresh.clear()
        return done

    pool, decoders = ThreadPoolExecutor(workers, thread_name_prefix="images"), Decoders(limits)
    try:
        with tqdm(total=len(names), desc="images", unit="picture", disable=None) as progress:
            for window in batched(names, _WINDOW):
                stamps = {name: stamp for name in window if (stamp := _stamp(folder, name))}
                known = store.get_many(key, list(stamps.values())) if store and stamps else {}
                rows: dict[str, ImageRow | tuple[Future[list[_Examined]], int]] = {
                    name: ImageRow(name, **loads(known[stamp])) for name, stamp in stamps.items() if stamp in known
                }
                for batch in batched((name for name in window if name not in rows), _BATCH):
                    future = pool.submit(
                        _examine, folder, [(name, stamps.get(name)) for name in batch], limits, decoders
                    )
                    rows |= {name: (future, place) for place, name in enumerate(batch)}
                pending += [rows[name] for name in window]
                while len(pending) > _WINDOW:
                    yield settle(pending.popleft())
                    progress.update()
            while pending:
                yield settle(pending.popleft())
                progress.update()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        decoders.close()
        pool.shutdown(wait=True)
        if store and fresh:
            store.put_many(key, fresh)


def _stamp(folder: Path, name: str) -> str | None:
    """What tells a file's state without reading it, hashed; None where it cannot be told, or is too young to."""
    try:
        path = locate(folder, name)
        status = os.stat(path)
    except (PictureError, OSError):
        return None
    if not stat.S_ISREG(status.st_mode) or time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
        return None
    state = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0{status.st_ino}"
    return hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()


def _examine(
    folder: Path, names: Sequence[tuple[str, str | None]], limits: ImagesParams, decoders: Decoders
) -> "list[_Examined]":
    """For each (name, stamp) the row, and the stamp to keep it under; None where another try may end otherwise."""
    done: dict[str, _Examined] = {}
    read: list[tuple[str, str | None, str, bytes]] = []

    def decode_read() -> None:
        for (name, stamp, sha256, _), found in zip(read, decoders.sizes([data for *_, data in read]), strict=True):
            if isinstance(found, PictureError):
                kept = None if isinstance(found, DecoderEndedError) else stamp
                done[name] = ImageRow(name, sha256, status=found.status, error=str(found)), kept
            else:
                kept = stamp if stamp == _stamp(folder, name) else None  # None: written to while it was read
                done[name] = ImageRow(name, sha256, *found), kept
        read.clear()

    for name, stamp in names:
        try:
            data = read_bytes(locate(folder, name), limits)
        except PictureError as error:
            done[name] = ImageRow(name, status=error.status, error=str(error)), None
            continue
        read.append((name, stamp, hashlib.sha256(data).hexdigest(), data))
        if sum(len(data) for *_, data in read) >= _BATCH_BYTES:
            decode_read()
    decode_read()
    return [done[name] for name, _ in names]
