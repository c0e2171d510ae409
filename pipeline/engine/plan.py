"""The plan: a manifest of pictures → jobs, by what the results lack, and jobs → batches.

The order of the manifest alone decides the batches, so an interrupted run goes on with those that it would have made.
Reading the pictures is left to :mod:`pipeline.engine.local`.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline.core.errors import UserError
from pipeline.core.files import read_jsonl
from pipeline.core.records import ImageRow
from pipeline.core.store import batched

WINDOW = 2048  # rows looked up among the results at a time
_BATCH_PIXELS = 64_000_000  # a batch is closed early at so many pixels: large pictures make small batches

Rows = Callable[[], Iterator[Mapping[str, Any]]]
"""The rows of a manifest, from the first one at every call."""


class Results(Protocol):
    """Where results go: bytes by (digest of a fingerprint, digest of an input), as :class:`pipeline.core.store.Store`.

    Called from several threads at once.
    """

    def get_many(self, fingerprint: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The values that are stored, by key; raises UserError where they cannot be read."""
        ...

    def known(self, fingerprint: str, keys: Sequence[str]) -> set[str]:
        """The keys that have a value, which is not read; raises UserError as :meth:`get_many`."""
        ...

    def put_many(self, fingerprint: str, values: Mapping[str, bytes]) -> None:
        """Store `values` by key, all or none; raises UserError where they cannot be written."""
        ...


class Job(NamedTuple):
    """A picture to read: its name, the SHA-256 of its bytes in hex, its size in pixels."""

    image: str
    sha256: str
    width: int
    height: int


def read_rows(manifest: Path | Iterable[ImageRow | Mapping[str, Any]]) -> Rows:
    """The manifest's rows, which may be gone through more than once.

    Raises:
        UserError: as they are gone through: the file or a row is malformed, or they are not sorted by image.
    """
    if isinstance(manifest, Path):
        return lambda: _checked(read_jsonl(manifest), str(manifest))
    rows = [asdict(row) if isinstance(row, ImageRow) else row for row in manifest]
    rows.sort(key=lambda row: str(row.get("image")))
    return lambda: _checked(rows, "manifest")


def _checked(rows: Iterable[Mapping[str, Any]], source: str) -> Iterator[Mapping[str, Any]]:
    previous = ""
    for number, row in enumerate(rows, start=1):
        try:
            name, status, sha256 = row["image"], row["status"], row["sha256"]
            if status == "ok":
                row["width"] * row["height"], bytes.fromhex(sha256)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{source}:{number}: not a row of the image manifest; run dvc repro images") from None
        if name <= previous and number > 1:
            raise UserError(
                f"{source}:{number}: {name!r} after {previous!r}; expected rows sorted by image, each "
                "once; run dvc repro images"
            )
        previous = name
        yield row


def jobs(rows: Iterable[Mapping[str, Any]], results: Results, key: str, *, stored: bool) -> Iterator[Job]:
    """The readable pictures that have a result, or have none, each hash once, in the manifest's order.

    Args:
        rows: of the manifest.
        results: where to look them up.
        key: digest of the extractor's fingerprint.
        stored: whether to give those with a result or those without.
    """
    seen: set[bytes] = set()
    for window in batched(rows, WINDOW):
        readable = [row for row in window if row["status"] == "ok"]
        found = results.known(key, [row["sha256"] for row in readable])
        for row in readable:
            if (row["sha256"] in found) == stored and (raw := bytes.fromhex(row["sha256"])) not in seen:
                seen.add(raw)
                yield Job(row["image"], row["sha256"], row["width"], row["height"])


def twins(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the readable pictures whose bytes more than one picture has, by SHA-256 in hex."""
    first: dict[bytes, str] = {}
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            continue
        name, sha256 = row["image"], row["sha256"]
        other = first.setdefault(bytes.fromhex(sha256), name)
        if other != name:
            found.setdefault(sha256, [other]).append(name)
    return found


def any_size(_width: int, _height: int) -> Hashable:
    """The one bucket of an extractor that does not sort pictures."""
    return None


def batches(jobs: Iterable[Job], size: int, bucket: Callable[[int, int], Hashable]) -> Iterator[list[Job]]:
    """Batches of at most `size`, of one bucket each.

    Which pictures stand together depends on the order alone, and whole batches are stored: so a run that was killed
    goes on with the batches it would have made, and ends with the very same numbers.

    Args:
        jobs: in the manifest's order.
        size: pictures per batch, at most; fewer where they are large.
        bucket: takes width and height in pixels; pictures with the same value go into batches together.
    """
    waiting: dict[Hashable, list[Job]] = {}
    pixels: dict[Hashable, int] = {}
    for job in jobs:
        key = bucket(job.width, job.height)
        waiting.setdefault(key, []).append(job)
        pixels[key] = pixels.get(key, 0) + job.width * job.height
        if len(waiting[key]) >= size or pixels[key] >= _BATCH_PIXELS:
            del pixels[key]
            yield waiting.pop(key)
    yield from waiting.values()
