"""SHA-256 of files, each read again only if its size or time has changed."""

import hashlib
from functools import lru_cache
from pathlib import Path


def file_digest(file: Path) -> str:
    """SHA-256 of a file, in hex."""
    status = file.stat()
    return _file_digest(str(file), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_digest(file: str, _size: int, _mtime_ns: int) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
