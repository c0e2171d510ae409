"""Files behind URLs, through fsspec: a folder that machines share, a bucket. Credentials are those of the environment.

A network that fails is an error with a URL in it, never a file that is missing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pipeline.core import environments
from pipeline.core.errors import UserError
from pipeline.core.files import atomic_write

_CLIENTS = ("botocore.", "aiobotocore.", "aiohttp.", "boto3.", "google.", "gcsfs.", "azure.")
"""Modules of clients whose errors are no OSError."""


class Remote:
    """A place that URLs below it are read from and written to; one for each process that uses it, also after a fork.

    Args:
        url: of a folder, ``s3://bucket/folder`` say; a path without ``://`` is one of this machine.

    Raises:
        UserError: nothing here speaks its protocol.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._process, self._system = -1, None
        self.system  # noqa: B018  (so that what it wants is missed here)

    @property
    def system(self) -> Any:
        """The file system of fsspec."""
        if self._process != os.getpid():  # its connections do not outlive a fork
            import fsspec

            protocol = self.url.partition("://")[0] if "://" in self.url else "file"
            try:
                self._system = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                package = f"; {environments.getting('s3fs')}" if protocol == "s3" else ""
                raise UserError(f"{self.url}: no package reads {protocol}:// here ({error}){package}") from None
            self._process = os.getpid()
        return self._system

    @property
    def local(self) -> bool:
        """Whether it is a folder that this machine sees as its own."""
        return "://" not in self.url or self.url.startswith("file://")

    def path(self, name: str) -> str:
        """What the file system calls a file below the place."""
        if self.url.startswith(("http://", "https://")):  # else `?` and `#` end a path, and `%2e%2e` leads out of it
            name = quote(name)
        whole = f"{self.url}/{name}" if name else self.url
        found: str = self.system._strip_protocol(whole)
        return found

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """Bytes `start` to `end` of a file; fewer where it ends before.

        Raises:
            FileNotFoundError: there is none.
            UserError: it cannot be read.
        """
        with self._explained(name, "read"):
            data: bytes = self.system.cat_file(self.path(name), start=start or None, end=end)
            return data

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        if self.local:
            with atomic_write(Path(self.path(name)), "wb") as file:
                file.write(data)
            return
        with self._explained(name, "written"):
            self.system.pipe_file(self.path(name), data)

    def find(self, name: str = "") -> list[str]:
        """Files below a folder, as paths below it, sorted; none where it is not there.

        Raises:
            UserError: it cannot be listed.
        """
        root = self.path(name)
        heard = {"on_error": _refused} if self.local else {}  # else what cannot be listed is as good as empty
        try:
            with self._explained(name, "listed"):
                found = (path[len(root) :].lstrip("/") for path in self.system.find(root, **heard))
                return sorted(map(unquote, found) if self.url.startswith("http") else found)
        except FileNotFoundError:
            return []

    def state(self, name: str) -> tuple[int, str]:
        """Size in bytes, and what tells a file's content from that of others under its name (ETag, or its time).

        Raises:
            FileNotFoundError: there is none.
            UserError: it cannot be asked for.
        """
        with self._explained(name, "read"):
            found = self.system.info(self.path(name))
        return int(found["size"]), _tag(found)

    def states(self) -> dict[str, tuple[int, str]]:
        """The states of all files below the place that listing it tells, by their paths: one request a thousand on S3.

        A web server lists none, nor does any other place where a listing has no tags.

        Raises:
            UserError: it cannot be listed.
        """
        if self.url.startswith(("http://", "https://")):
            return {}
        root = self.path("")
        try:
            with self._explained("", "listed"):
                found = self.system.find(root, detail=True)
        except FileNotFoundError:
            return {}
        return {
            path[len(root) :].lstrip("/"): (int(one["size"]), tag) for path, one in found.items() if (tag := _tag(one))
        }

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        self.url, self._process, self._system = url, -1, None

    @contextmanager
    def _explained(self, name: str, doing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) and not type(error).__module__.startswith(_CLIENTS):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self.url}/{name}: cannot be {doing}: {reason[:300]}; see that it can be reached from this machine, "
                "with its credentials, and run again: what was read so far is kept"
            ) from error


def _refused(error: OSError) -> None:
    """Raise an error of a folder that is to be listed; one that is not there, or is gone by now, holds nothing."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _tag(found: Mapping[str, Any]) -> str:
    """What tells a file's content from that of others under its name; empty where nothing does."""
    return str(next((found[key] for key in ("ETag", "etag", "mtime", "LastModified", "created") if found.get(key)), ""))
