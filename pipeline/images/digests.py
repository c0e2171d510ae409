"""What a data set's pictures are, in one file: a SHA-256 a name, as ``sha256sum`` writes it.

DVC then watches that file instead of a folder, a bucket or tars. A picture is what its line says: what is known of it
is known by its digest, and other bytes under its name are not it.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.core.errors import UserError
from pipeline.core.files import atomic_write, numbered_lines
from pipeline.core.names import other_forms
from pipeline.core.progress import Progress
from pipeline.core.scratch import Distinct
from pipeline.core.store import Store, batched, digest
from pipeline.images.decoding import PictureError
from pipeline.images.pictures import Pictures, StampedPictures, check_name, of
from pipeline.images.remote import Objects, opened
from pipeline.settings.params import DataParams, ImagesParams

_LINE = re.compile(r"(?P<escaped>\\?)(?P<sha256>[0-9a-fA-F]{64}) [ *](?P<name>.+)", re.DOTALL)
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}
_NAME_BYTES, _SHA256_BYTES = 16, 32

_WINDOW = 2048  # names looked up at a time, and kept together
_THREADS = 16  # that read at once: they wait for disks and networks
_KEY = digest({"digests of pictures by the states of their files": 1})


class Digests:
    """SHA-256 by a picture's name; a line takes 48 bytes of memory.

    Args:
        path: the file; names are below `data.images`, with or without ``./`` before them.

    Raises:
        UserError: there is no such file, a line is no digest and name, or a name has two digests.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.name
        rows = bytearray()
        for _, name, sha256 in _entries(path):
            rows += _key(name)
            rows += bytes.fromhex(sha256)
        table = np.frombuffer(rows, [("name", f"S{_NAME_BYTES}"), ("sha256", f"S{_SHA256_BYTES}")])
        order = np.argsort(table["name"], kind="stable")
        self._names, self._digests = table["name"][order], table["sha256"][order]
        twice = (self._names[1:] == self._names[:-1]) & (self._digests[1:] != self._digests[:-1])
        if twice.any():
            _refuse(path, _padded(self._names[1:][twice][0], _NAME_BYTES))

    def __len__(self) -> int:
        return len(self._names)

    def get(self, name: str) -> str | None:
        """The SHA-256 of a picture in hex; None where neither its name nor another Unicode form of it is listed."""
        for form in (name, *other_forms(name)):
            key = _key(form)
            place = int(np.searchsorted(self._names, np.bytes_(key)))
            if place < len(self._names) and _padded(self._names[place], _NAME_BYTES) == key:
                return _padded(self._digests[place], _SHA256_BYTES).hex()
        return None


class Some(NamedTuple):
    """The same of a few names, to be pickled."""

    file: str
    found: Mapping[str, str | None]

    def get(self, name: str) -> str | None:
        """As of :class:`Digests`, for one of the names."""
        return self.found[name]


class Listed:
    """Pictures that are what a listing says: another picture under a name of its is none.

    Args:
        pictures: where they lie.
        digests: the listing.
    """

    def __init__(self, pictures: Pictures, digests: Digests | Some) -> None:
        self._pictures, self._digests = pictures, digests

    def read(self, name: str) -> bytes:
        """The bytes of a picture.

        Raises:
            PictureError: it is not listed, has other bytes than those that are, or cannot be read where it lies.
            UserError: the place cannot be reached.
        """
        expected = self._digests.get(name)
        if expected is None:
            raise PictureError("missing", f"not listed in {self._digests.file}")
        data = self._pictures.read(name)
        if (found := hashlib.sha256(data).hexdigest()) != expected:
            raise PictureError(
                "unreadable",
                f"not the picture that {self._digests.file} lists: its SHA-256 is {found[:12]}…, not {expected[:12]}…",
            )
        return data

    def stamp(self, name: str) -> str | None:
        """The digest that is listed, whatever lies there; None for a name that is not listed, or leads elsewhere."""
        try:
            check_name(name)
        except PictureError:
            return None
        return self._digests.get(name)

    def of(self, names: Sequence[str]) -> "Listed":
        """The same, for these pictures: it can be pickled, and holds no others' digests."""
        digests = Some(self._digests.file, {name: self._digests.get(name) for name in names})
        return Listed(of(self._pictures, names), digests)


def held(data: DataParams, limits: ImagesParams, store: Store) -> Path | StampedPictures | None:
    """Where a data set's pictures lie, a folder or another place, and held to its listing where it has one; or None.

    Raises:
        UserError: the place, or the listing, is not there or cannot be read.
    """
    if data.listing_file is None:
        return data.images_folder if data.images_elsewhere is None else opened(data, limits, store)
    if data.images_folder is not None and not data.images_folder.is_dir():
        raise UserError(f"{data.images_folder}: no such folder of pictures (data.images in params.yaml)")
    place = opened(data, limits, store)
    return None if place is None else Listed(place, Digests(data.listing_file))


def write(names: Iterable[str], pictures: StampedPictures, path: Path, store: Store) -> "dict[str, PictureError]":
    """List pictures in a file, sorted by name, as ``sha256sum`` does.

    A file whose state is as it was when it was last listed is not read again, nor is what a killed run has read.

    Args:
        names: of the pictures.
        pictures: where they lie.
        path: the file, which is replaced once all are read.
        store: keeps the digests.

    Returns:
        By name, what cannot be read, and so is left out.

    Raises:
        UserError: not one can be read, the place cannot be reached, or the file cannot be written, or is there and no
            listing.
    """
    _require_listing(path)
    ordered = Distinct(names)
    states = pictures.states() if isinstance(pictures, Objects) else {}
    left_out: dict[str, PictureError] = {}
    with (
        atomic_write(path) as file,
        ThreadPoolExecutor(_THREADS, thread_name_prefix="listing") as pool,
        Progress("listing", "picture", len(ordered)) as progress,
    ):
        for window in batched(ordered, _WINDOW):
            stamps = {name: stamp for name in window if (stamp := states.get(name) or pictures.stamp(name))}
            known = store.get_many(_KEY, list(stamps.values()))
            digests = {name: known[stamp].decode() for name, stamp in stamps.items() if stamp in known}
            unread = [name for name in window if name not in digests]
            fresh = {}
            for name, found in zip(unread, pool.map(lambda name: _read(pictures, name), unread), strict=True):
                if isinstance(found, PictureError):
                    left_out[name] = found
                    continue
                digests[name] = found
                if name in stamps and (name in states or pictures.stamp(name) == stamps[name]):
                    fresh[stamps[name]] = found.encode()
            store.put_many(_KEY, fresh)
            file.writelines(_line(digests[name], name) for name in window if name in digests)
            progress.update(len(window))
        if left_out and len(left_out) == len(ordered):
            raise UserError(f"{path}: not written, since not one picture can be read ({described(left_out)})")
    return left_out


def described(left_out: "dict[str, PictureError]") -> str:
    """What is left out of a listing, in words: how many of each status, and one of them."""
    counts = Counter(error.status for error in left_out.values())
    name, error = next(iter(left_out.items()))
    counted = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    return f"{counted}, such as {name}: {error}"


def _read(pictures: Pictures, name: str) -> str | PictureError:
    try:
        return hashlib.sha256(pictures.read(name)).hexdigest()
    except PictureError as error:
        return error


def _line(sha256: str, name: str) -> str:
    escaped = "".join(_ESCAPES.get(character, character) for character in name)
    return f"{'' if escaped == name else chr(92)}{sha256}  {escaped}\n"


def _require_listing(path: Path) -> None:
    """See that a file that is to be replaced begins as a listing does: it might be a text of the data set."""
    try:
        if path.exists():
            next(_entries(path), None)
    except UserError as error:
        raise UserError(f"{error}; it is not overwritten: see what data.listing names") from None


def _entries(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, name and SHA-256 in hex of each picture of a listing."""
    for number, line in numbered_lines(path):
        if not line:
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise UserError(
                f"{path}:{number}: found {line[:80]!r}, expected a line as sha256sum writes it: a SHA-256 in hex, two "
                "spaces, and the picture's name below data.images"
            )
        name = found["name"]
        if found["escaped"]:
            name = re.sub(r"\\([\\nr])", lambda each: {"\\": "\\", "n": "\n", "r": "\r"}[each[1]], name)
        yield number, name.removeprefix("./"), found["sha256"]


def _refuse(path: Path, key: bytes) -> None:
    """Name the picture that is listed with two digests."""
    lines = [(number, name) for number, name, _ in _entries(path) if _key(name) == key]
    raise UserError(
        f"{path}:{lines[-1][0]}: {lines[0][1]} has another SHA-256 in line {lines[0][0]}; expected one for each name"
    )


def _key(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:_NAME_BYTES]


def _padded(value: bytes, size: int) -> bytes:
    """A value of an array of bytes, with the zeros at its end that numpy leaves out."""
    return bytes(value).ljust(size, b"\0")
