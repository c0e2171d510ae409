"""SHA-256 of files and of folders of modules, each file read again only if its size or time has changed."""

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from pipeline.core.files import require_regular


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        UserError: it is a pipe, a device or a folder.
        OSError: it is missing, or may not be read.
    """
    require_regular(file)
    status = file.stat()
    return _file_digest(str(file), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(file: str, _size: int, _mtime_ns: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def modules_digest(root: Path, places: Iterable[str]) -> str:
    """SHA-256 of names and contents of the Python modules below `root` at `places`, files or folders, in hex."""
    found = hashlib.sha256()
    for place in (root / name for name in places):
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            found.update(f"{file.relative_to(root).as_posix()}\0{file_digest(file)}\n".encode())
    return found.hexdigest()
