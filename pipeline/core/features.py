"""Features of pictures on disk: shards of tensors, an index of which picture has which, written and read here alone.

A folder holds ``index.jsonl`` (one row per row of the manifest), ``facts.json`` (what all rows share) and
``features-00000.safetensors``, …, each with one tensor `regions`. Readers map the shards into memory, so what they
take does not grow with the number of pictures. The index is written last: a folder that has one is whole.
"""

import json
import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from pipeline.core import records
from pipeline.core.errors import UserError, damaged
from pipeline.core.files import atomic_write
from pipeline.core.records import STRICT

INDEX, FACTS = "index.jsonl", "facts.json"
STAGE = "features"

SHARD_BYTES = 256 * 2**20
"""Of a shard's tensor, at most; one picture's, where that is more."""

_TENSOR = "regions"
_HEADER_BYTES = 256  # of a shard, padded with spaces, as the number of its rows is known only at its end
_ITEM_BYTES = 2

Regions = NDArray[np.float16]
"""Features of one picture: a vector for each region, row by row. *Shape:* (regions, width)."""

Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A picture's row in the index; `shard` and `row` say where its features are, None where it has none."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    image: str
    sha256: str | None
    status: str
    error: str | None
    shard: Count | None
    row: Count | None

    def __post_init__(self) -> None:
        if (self.status == "ok") == (None in (self.shard, self.row)):
            raise ValueError("shard and row: expected numbers where the status is ok, and null elsewhere")


@dataclass(frozen=True, slots=True)
class FeatureFacts:
    """What all features of a folder share.

    Attributes:
        regions, width: the shape of one picture's; None where no picture has any.
        fingerprint: digest of the extractor's fingerprint; None where the stage is off.
        shards: rows of each shard, in order.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    regions: Annotated[int, Field(ge=1)] | None
    width: Annotated[int, Field(ge=1)] | None
    fingerprint: str | None
    shards: list[Annotated[int, Field(ge=1)]]

    def __post_init__(self) -> None:
        if len({self.regions is None, self.width is None, not self.shards}) > 1:
            raise ValueError("regions and width: expected numbers where there are shards, and null elsewhere")


class FeatureWriter:
    """Takes the rows of an index in order, with the features of those that have any; made by :func:`writing`."""

    def __init__(self, folder: Path, index: IO[str], current: ExitStack, shard_bytes: int) -> None:
        self._folder, self._index, self._shard_bytes = folder, index, shard_bytes
        self._current = current  # closes the shard that is being written
        self._places: dict[bytes, tuple[int, int]] = {}
        self._shape: tuple[int, int] | None = None
        self._rows: list[int] = []  # of each shard
        self._file: IO[bytes] | None = None

    def add(
        self, image: str, sha256: str | None, status: str = "ok", error: str | None = None, regions: Any = None
    ) -> None:
        """Add a row. Features of a `sha256` that has come before are not written again.

        Args:
            image: the picture's name; rows are sorted by it.
            sha256: of the picture's bytes, in hex.
            status: what became of the picture; "ok" where it has features.
            error: why it has none.
            regions: its features, float16, *Shape:* (regions, width); None where the status is not "ok".

        Raises:
            UserError: the disk is full, or the shape is not that of the pictures before.
            ValueError: they are no features: another type, another number of dimensions, or not finite.
        """
        shard = row = None
        if status == "ok":
            if sha256 is None:
                raise ValueError(f"{image}: expected the SHA-256 of a picture that has features")
            key = bytes.fromhex(sha256)
            if key not in self._places:
                self._places[key] = self._put(image, checked(regions))
            shard, row = self._places[key]
        self._index.write(records.as_json(records.row(FeatureRow(image, sha256, status, error, shard, row))) + "\n")

    def _put(self, image: str, regions: Regions) -> tuple[int, int]:
        """Write the features behind the last ones; return their shard and row."""
        regions_, width = regions.shape
        if self._shape is None:
            self._shape = regions_, width
        elif self._shape != regions.shape:
            raise UserError(
                f"{self._folder}: {image}: features of {_size(regions_, width)}, those of the pictures before are of "
                f"{_size(*self._shape)}; expected one shape for all, so resize every picture to one size"
            )
        if self._file is None or (self._rows[-1] + 1) * regions.nbytes > self._shard_bytes:
            self._finish()
            self._rows.append(0)
            self._file = self._current.enter_context(atomic_write(self._folder / shard_name(len(self._rows) - 1), "wb"))
            self._file.write(b" " * _HEADER_BYTES)
        self._file.write(regions.astype("<f2", copy=False).tobytes())
        self._rows[-1] += 1
        return len(self._rows) - 1, self._rows[-1] - 1

    def _finish(self) -> None:
        """Complete the shard that is being written, if there is one."""
        if self._file is None or self._shape is None:
            return
        self._file.seek(0)
        self._file.write(_header(self._rows[-1], *self._shape))
        self._file = None
        self._current.close()

    def finish(self, fingerprint: str | None) -> FeatureFacts:
        """Complete the last shard; return what all features share."""
        self._finish()
        regions, width = self._shape or (None, None)
        return FeatureFacts(regions, width, fingerprint, self._rows)


def as_bytes(regions: Any) -> bytes:
    """The features of a picture with their shape and type, as the store keeps them: a shard of one row.

    Raises:
        TypeError, ValueError: as :func:`checked`.
    """
    values = checked(regions)
    return _header(1, *values.shape) + values.astype("<f2", copy=False).tobytes()


def from_bytes(value: bytes) -> Regions:
    """The features that :func:`as_bytes` was given, *Shape:* (regions, width).

    Raises:
        ValueError: the bytes are something else.
    """
    try:
        _, regions, width = json.loads(value[8:_HEADER_BYTES])[_TENSOR]["shape"]
        whole = value[:_HEADER_BYTES] == _header(1, regions, width)
        return np.frombuffer(value, "<f2", offset=_HEADER_BYTES if whole else len(value)).reshape(regions, width)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{len(value):,} bytes that are not the features of a picture") from None


def checked(regions: Any) -> Regions:
    """The features of a picture, if they are what they should be.

    Raises:
        TypeError: they are no float16 array of two dimensions, each of them at least 1.
        ValueError: one is not finite.
    """
    if not isinstance(regions, np.ndarray) or regions.dtype != np.float16 or regions.ndim != 2 or not regions.size:
        found = (
            f"{regions.dtype} array of shape {list(regions.shape)}"
            if isinstance(regions, np.ndarray)
            else f"{type(regions).__name__} {str(regions)[:80]!r}"
        )
        raise TypeError(f"{found} for a picture; expected a float16 array of shape [regions, width]")
    if not np.isfinite(regions).all():
        raise ValueError("features that are NaN, or too large for float16 (65,504 at most)")
    return regions


@contextmanager
def writing(folder: Path, fingerprint: str | None, shard_bytes: int = SHARD_BYTES) -> Iterator[FeatureWriter]:
    """Write a folder of features: in the body of a `with`, :meth:`FeatureWriter.add` takes every row.

    The same rows give the same bytes. Other files of the folder are left alone.

    Args:
        folder: where to write; created if missing. What was there of features is replaced.
        fingerprint: digest of the extractor's fingerprint; None where the stage is off.
        shard_bytes: of a shard's tensor, at most.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    with atomic_write(folder / INDEX) as index, ExitStack() as current:
        (folder / INDEX).unlink(missing_ok=True)  # from here on the folder is not whole
        for old in folder.glob("features-*.safetensors"):
            old.unlink()
        writer = FeatureWriter(folder, index, current, shard_bytes)
        yield writer
        records.write_one(folder / FACTS, writer.finish(fingerprint))


class Features(Mapping[str, Regions]):
    """The features of a folder, by the picture's name; the shards are mapped into memory, not read.

    Iterating gives the names of the pictures that have features, sorted. It can be handed to other processes, which
    map the same files.
    """

    def __init__(self, folder: Path, facts: FeatureFacts, rows: Iterator[FeatureRow]) -> None:
        self.folder = folder
        self.regions, self.width, self.fingerprint = facts.regions, facts.width, facts.fingerprint
        # A hundred thousand names as one text and numbers: some megabytes, where Python's own objects take forty.
        names, ends, places = bytearray(), array("q", [0]), array("i")
        previous = b""
        for row in rows:
            name = row.image.encode()
            if name <= previous and previous:
                raise _damaged(
                    folder / INDEX, f"{row.image!r} stands behind {previous.decode()!r}; expected rows sorted by image"
                )
            previous = name
            if row.shard is None or row.row is None:
                continue
            if row.shard >= len(facts.shards) or row.row >= facts.shards[row.shard]:
                raise _damaged(
                    folder / INDEX,
                    f"{row.image!r} names row {row.row} of shard {row.shard}, which {FACTS} does not have",
                )
            names += name
            ends.append(len(names))
            places.extend((row.shard, row.row))
        self._names, self._ends, self._places = bytes(names), ends, np.array(places).reshape(-1, 2)
        self._shards = [_mapped(folder / shard_name(n), rows, facts) for n, rows in enumerate(facts.shards)]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Features":
        """Open a folder that the stage `features` has written.

        Raises:
            UserError: a file is missing, or is not what the others say; the message names it.
        """
        place = Path(folder)
        facts = records.read_one(place / FACTS, FeatureFacts, STAGE)
        return cls(place, facts, records.read(place / INDEX, FeatureRow, STAGE))

    def __getitem__(self, image: str) -> Regions:
        """Features of a picture, read-only, *Shape:* (regions, width); raises KeyError where it has none."""
        place = self._find(image)
        if place is None:
            raise KeyError(image)
        shard, row = self._places[place]
        found: Regions = self._shards[shard][row]
        return found

    def __contains__(self, image: object) -> bool:
        return isinstance(image, str) and self._find(image) is not None

    def __iter__(self) -> Iterator[str]:
        return (self._name(place).decode() for place in range(len(self)))

    def __len__(self) -> int:
        """How many pictures have features."""
        return len(self._places)

    def __reduce__(self) -> tuple[Any, ...]:
        return Features.open, (self.folder,)

    def _name(self, place: int) -> bytes:
        return self._names[self._ends[place] : self._ends[place + 1]]

    def _find(self, image: str) -> int | None:
        name = image.encode(errors="surrogatepass")
        place = bisect_left(range(len(self)), name, key=self._name)
        return place if place < len(self) and self._name(place) == name else None


def shard_name(number: int) -> str:
    """The name of a shard, counted from 0."""
    return f"features-{number:05}.safetensors"


def _header(rows: int, regions: int, width: int) -> bytes:
    """The beginning of a safetensors file with the one tensor; its length does not depend on the number of rows."""
    shape = [rows, regions, width]
    entry = {"dtype": "F16", "shape": shape, "data_offsets": [0, rows * regions * width * _ITEM_BYTES]}
    text = json.dumps({_TENSOR: entry}, separators=(",", ":")).encode()
    length = _HEADER_BYTES - 8
    return length.to_bytes(8, "little") + text.ljust(length)


def _mapped(path: Path, rows: int, facts: FeatureFacts) -> Any:
    """A shard as an array of its rows.

    Raises:
        UserError: it is missing, cut short, or of another shape than `facts` says.
    """
    shape = rows, facts.regions or 0, facts.width or 0
    expected = _header(*shape)
    try:
        with open(path, "rb") as file:
            found, size = file.read(len(expected)), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from None
    if found != expected:
        raise _damaged(path, f"its beginning is not that of a tensor {_TENSOR}, float16, of shape {list(shape)}")
    wanted = len(expected) + math.prod(shape) * _ITEM_BYTES
    if size != wanted:
        raise _damaged(path, f"{size:,} bytes; expected {wanted:,}")
    return np.memmap(path, "<f2", "r", len(expected), shape).view(np.ndarray)


def _size(regions: int, width: int) -> str:
    return f"{regions} × {width}"


def _damaged(path: Path, trouble: str) -> UserError:
    return damaged(path, trouble, STAGE)
