"""Where pictures lie, and how their bytes are read safely: from a folder, under names that anybody may have chosen.

What bytes become is left to :mod:`pipeline.images.decoding`.
"""

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, Self, TypeVar, runtime_checkable

from PIL import Image

from pipeline.core.names import other_forms
from pipeline.images.decoding import PictureError, decode
from pipeline.images.links import Links
from pipeline.settings.params import ImagesParams

_CHANGED = (
    "the file has changed since the images stage; run dvc repro images, and before it python -m pipeline.listing where "
    "data.listing names one"
)
_SETTLED_NS = 2_000_000_000  # a file younger than its file system's clock tick may change without a new time stamp
_DRIVE = re.compile(r"^[A-Za-z]:")

P = TypeVar("P")


class Pictures(Protocol):
    """Where pictures lie."""

    def read(self, name: str) -> bytes:
        """The bytes of the picture `name`, as the data set calls it; called from several threads at once.

        Raises:
            PictureError: it is missing, unsafe to read, unreadable or too large.
            UserError: the place itself cannot be reached.
        """
        ...


class StampedPictures(Pictures, Protocol):
    """Where pictures lie whose state can be told."""

    def stamp(self, name: str) -> str | None:
        """What tells a picture's state without reading it, as a digest; None where it cannot be told, or not yet."""
        ...


@runtime_checkable
class IndexedPictures(Protocol):
    """Where pictures lie that an index of this machine finds."""

    def of(self, names: Sequence[str]) -> Self:
        """The same for some pictures, without the index: it can be pickled, for other machines."""
        ...


def of(pictures: P, names: Sequence[str]) -> P:
    """Where some pictures lie, to be pickled."""
    return pictures.of(names) if isinstance(pictures, IndexedPictures) else pictures


class Folder:
    """The pictures of a folder, by their path with ``/`` below it.

    Nothing outside it is read but what :mod:`pipeline.images.links` lets links lead to.

    Args:
        folder: where they lie.
        limits: on each picture.
        follow: other folders that links may lead into.
    """

    def __init__(self, folder: Path, limits: ImagesParams, follow: Sequence[Path] = ()) -> None:
        self._folder, self._limits = folder.resolve(), limits
        self._links = Links(self._folder, follow)

    def locate(self, name: str) -> Path:
        """The file of picture `name`, or one under its name in another Unicode form; raises as :func:`locate`."""
        try:
            return locate(self._folder, name, self._links)
        except PictureError as error:
            if error.status == "missing":
                for form in other_forms(name):
                    if os.path.lexists(os.path.join(self._folder, form)):
                        return locate(self._folder, form, self._links)
            raise

    def read(self, name: str) -> bytes:
        """The bytes of a picture; raises as :func:`locate` and :func:`read_bytes`."""
        return read_bytes(self.locate(name), self._limits)

    def look(self, name: str) -> None:
        """See that a picture's file can be opened; raises as :meth:`read`, which would also find what is in it."""
        with _opened(self.locate(name), self._limits):
            pass

    def stamp(self, name: str) -> str | None:
        """Of path, size, inode and times; None where the file is too young to tell."""
        try:
            path = self.locate(name)
            status = os.stat(path)
        except (PictureError, OSError):
            return None
        if not stat.S_ISREG(status.st_mode) or time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
            return None
        state = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ctime_ns}\0{status.st_ino}"
        return hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()


def load(pictures: Pictures, name: str, sha256: str, limits: ImagesParams) -> Image.Image:
    """Read and decode a picture of the manifest.

    Args:
        pictures: where it lies.
        name: its row's `image`.
        sha256: its row's, in hex.
        limits: on its size.

    Returns:
        The picture, upright RGB.

    Raises:
        PictureError: it cannot be read, or it is no longer the file that the manifest describes; a result from it
            must not be stored under the old file's hash.
    """
    data = pictures.read(name)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PictureError("unreadable", _CHANGED)
    return decode(data, limits)[0]


def locate(folder: Path, name: str, links: Links) -> Path:
    """The file of picture `name`, a path with ``/`` below `folder`.

    Args:
        folder: the pictures' folder, already resolved (``folder.resolve()``).
        name: as a data set gives it, so anything.
        links: where a link may lead.

    Raises:
        PictureError: the name would lead out of the folder, by ``..``, a root, a drive or a link.
    """
    check_name(name)
    path = os.path.join(folder, name)
    try:
        if "/" in name or stat.S_ISLNK(os.lstat(path).st_mode):
            target = os.path.realpath(path, strict=True)
            if not links.allow(target):
                raise PictureError("unsafe_name", "a link leads out of the images folder")
    except OSError as error:
        raise _unopened(error) from None
    return Path(path)


def check_name(name: str) -> None:
    """See that a name stays below the place that it is read from; raises PictureError where it does not."""
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or _DRIVE.match(name) or any(p in ("", ".", "..") for p in parts):
        raise PictureError("unsafe_name", "the name does not stay in the images folder")


def _unopened(error: OSError) -> PictureError:
    absent = isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG
    return PictureError("missing" if absent else "unreadable", error.strerror or type(error).__name__)


def read_bytes(path: Path, limits: ImagesParams) -> bytes:
    """A picture's bytes.

    Raises:
        PictureError: it is missing, is no regular file, may not be read, or is larger than ``limits.max_bytes``.
    """
    with _opened(path, limits) as handle, open(handle, "rb", closefd=False) as file:
        return file.read(limits.max_bytes)


@contextmanager
def _opened(path: Path, limits: ImagesParams) -> Iterator[int]:
    """The file's descriptor; raises as :func:`read_bytes`."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer forever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise PictureError("unreadable", "not a regular file")
            if status.st_size > limits.max_bytes:
                raise PictureError("too_large", f"{status.st_size} bytes; images.max_bytes is {limits.max_bytes}")
            yield handle
        finally:
            os.close(handle)
    except OSError as error:
        raise _unopened(error) from None
