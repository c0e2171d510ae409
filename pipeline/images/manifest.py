"""The manifest: one row for each picture that a data set names, with its hash, size and status.

Whatever is wrong with a picture becomes a status in its row, never a crash and never a substitute. Finding and reading
a picture's file is left to :mod:`pipeline.images.pictures`, decoding to :mod:`pipeline.images.decoding`.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.core.machine import cores
from pipeline.core.names import has_unpaired_surrogate
from pipeline.core.progress import Progress
from pipeline.core.records import ImageRow
from pipeline.core.results import Results, save
from pipeline.core.scratch import Distinct
from pipeline.core.store import Store, batched, digest
from pipeline.images.decoding import DecoderEndedError, Decoders, PictureError
from pipeline.images.pictures import Folder, StampedPictures
from pipeline.settings.params import ImagesParams

VERSION = 1
"""Raised when the same bytes would give another row, so that rows kept from earlier runs are not used."""

BATCH = 16
"""Pictures given to a decoding process at a time, or fewer where they are large."""

_WINDOW = 2048  # names looked up at a time
_PUT = 256  # rows kept at a time
_BATCH_BYTES = 4_000_000

_Examined = tuple[ImageRow, str | None]
_Row = ImageRow | tuple[Future[list[_Examined]], int]


class Window(NamedTuple):
    """Names that are looked up together, and where their rows are kept; None: nowhere."""

    names: Sequence[str]
    results: Results | None


def manifest(
    names: Iterable[str],
    folder: Path | StampedPictures | None,
    limits: ImagesParams,
    store: Store | None = None,
    workers: int | None = None,
    follow: Sequence[Path] = (),
) -> Iterator[ImageRow]:
    """Yield one row for each distinct name, sorted by name.

    Every picture is hashed and decoded in full, so that its status is true: by child processes, which end where one
    takes more time or memory than `limits` allow. With a store, the row of a file whose path, size, inode and times
    are as they were is taken from there, and none of its bytes are read.

    Args:
        names: of the pictures, paths with ``/`` below `folder`.
        folder: where the pictures lie, a folder or another place; None for a data set without.
        limits: on each picture.
        store: keeps rows between runs.
        workers: child processes that decode; by default as many as this process may use cores.
        follow: other folders that links may lead into.

    Raises:
        UserError: `folder` does not exist, or a name cannot be written as UTF-8.
    """
    ordered, place = distinct(names), place_of(folder, limits, follow)
    if place is None:
        return without_pictures(ordered)
    windows = (Window(window, store) for window in batched(ordered, _WINDOW))
    return counted(examined(windows, place, limits, workers), len(ordered))


def distinct(names: Iterable[str]) -> Distinct:
    """Names in order, each once; raises UserError where one cannot be written as UTF-8."""
    return Distinct(map(_writable, names))


def place_of(
    folder: Path | StampedPictures | None, limits: ImagesParams, follow: Sequence[Path] = ()
) -> StampedPictures | None:
    """Where pictures lie, arguments as of :func:`manifest`; raises UserError where there is no such folder."""
    if not isinstance(folder, Path):
        return folder
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures (data.root and data.images in params.yaml)")
    return Folder(folder, limits, follow)


def without_pictures(names: Iterable[str]) -> Iterator[ImageRow]:
    """The rows of a data set that has no pictures."""
    error = "the data set has no pictures (data.images is null)"
    return (ImageRow(name, status="missing", error=error) for name in names)


def counted(rows: Iterable[ImageRow], total: int | None, on: str | None = None) -> Iterator[ImageRow]:
    """The rows themselves, with word of how far they are; arguments as of :class:`pipeline.core.progress.Progress`."""
    with Progress("images", "picture", total, on=on) as progress:
        for row in rows:
            yield row
            progress.update()


def _writable(name: str) -> str:
    """The name itself; raises UserError where it cannot be written as UTF-8."""
    if has_unpaired_surrogate(name):
        raise UserError(
            f"picture {name!r}: the name contains an unpaired surrogate and cannot be "
            "written as UTF-8; fix the id in the data set"
        )
    return name


def key_of(limits: ImagesParams) -> str:
    """What rows are kept under, as a digest, beside the stamp of each."""
    return digest({"rows of the manifest": VERSION, "max_pixels": limits.max_pixels, "max_bytes": limits.max_bytes})


def known(window: Window, stamps: Mapping[str, str], key: str) -> dict[str, ImageRow]:
    """The rows that are kept, by name; of :func:`stamped`, and of :func:`key_of`."""
    found = window.results.get_many(key, list(stamps.values())) if window.results is not None and stamps else {}
    return {name: ImageRow(name, **loads(found[stamp])) for name, stamp in stamps.items() if stamp in found}


def stamped(names: Iterable[str], place: StampedPictures) -> dict[str, str]:
    """The stamps of pictures by name, of those whose state can be told."""
    return {name: stamp for name in names if (stamp := place.stamp(name))}


def examined(
    windows: Iterable[Window], place: StampedPictures, limits: ImagesParams, workers: int | None = None
) -> Iterator[ImageRow]:
    """Yield the rows of names in the order of `windows`; those that are not known are kept where their window says.

    Args:
        windows: sorted, each name once.
        place: where the pictures lie.
        limits: on each picture.
        workers: as of :func:`manifest`.
    """
    key, workers = key_of(limits), workers or cores()
    pending: deque[tuple[Window, dict[str, _Row]]] = deque()
    pool, decoders = ThreadPoolExecutor(workers, thread_name_prefix="images"), Decoders(limits)
    try:
        for window in windows:
            stamps = stamped(window.names, place)
            rows: dict[str, _Row] = {**known(window, stamps, key)}
            for batch in batched((name for name in window.names if name not in rows), BATCH):
                future = pool.submit(_examine, place, [(name, stamps.get(name)) for name in batch], limits, decoders)
                rows |= {name: (future, number) for number, name in enumerate(batch)}
            pending.append((window, rows))
            if len(pending) > 1:  # what is read while the rows of one are written
                yield from _settled(*pending.popleft(), key)
        while pending:
            yield from _settled(*pending.popleft(), key)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        decoders.close()
        pool.shutdown(wait=True)


def _settled(window: Window, rows: Mapping[str, _Row], key: str) -> Iterator[ImageRow]:
    """The rows of a window in order, once they are there; what is new is kept, also where this ends early."""
    fresh: dict[str, bytes] = {}
    try:
        for name in window.names:
            row, stamp = rows[name], None
            if not isinstance(row, ImageRow):
                row, stamp = row[0].result()[row[1]]
            if stamp is not None and window.results is not None:
                values = asdict(row)
                del values["image"]
                fresh[stamp] = dumps(values, ensure_ascii=False).encode()
                if len(fresh) >= _PUT:
                    window.results.put_many(key, fresh)
                    fresh.clear()
            yield row
    finally:
        if window.results is not None:
            if fresh:
                window.results.put_many(key, fresh)
            save(window.results)


def _examine(
    place: StampedPictures, names: Sequence[tuple[str, str | None]], limits: ImagesParams, decoders: Decoders
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
                kept = stamp if stamp == place.stamp(name) else None  # None: written to while it was read
                done[name] = ImageRow(name, sha256, *found), kept
        read.clear()

    for name, stamp in names:
        try:
            data = place.read(name)
        except PictureError as error:
            done[name] = ImageRow(name, status=error.status, error=str(error)), None
            continue
        read.append((name, stamp, hashlib.sha256(data).hexdigest(), data))
        if sum(len(data) for *_, data in read) >= _BATCH_BYTES:
            decode_read()
    decode_read()
    return [done[name] for name, _ in names]


_REMEDIES = {
    "missing": "see that data.images and data.image_name in params.yaml give the files' names (and that data.listing, "
    "where it is set, lists them)",
    "unsafe_name": "name the folder that the links lead to in data.follow, or put the files themselves there",
    "too_large": "raise images.max_bytes or images.max_pixels",
    "too_slow": "raise images.max_seconds",
}
_EXAMPLES = 3


class Statuses:
    """What became of pictures: how many have which status, and the rows of the first few."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: list[ImageRow] = []

    def noted(self, rows: Iterable[ImageRow]) -> Iterator[ImageRow]:
        """The rows themselves, which are counted as they are gone through."""
        for row in rows:
            self.counts[row.status] += 1
            if len(self._first) < _EXAMPLES:
                self._first.append(row)
            yield row

    def nothing_readable(self, folder: Path | str) -> str | None:
        """Why not one picture can be read, and what to do; None where one can, or where there are none."""
        if not self.counts or self.counts["ok"]:
            return None
        examples = [f"  {row.image}: {row.status}: {row.error}" for row in self._first]
        counts = self.counts.most_common()
        remedies = [_REMEDIES[status] for status, _ in counts if status in _REMEDIES]
        return "\n".join(
            (
                f"{folder}: of {self.counts.total():,} pictures that posts name, not one can be read "
                f"({', '.join(f'{count:,} {status}' for status, count in counts)}):",
                *examples,
                "; ".join((*remedies, "where contexts come from files alone (precomputed), set data.images to null")),
            )
        )


def nothing_readable(rows: Iterable[ImageRow], folder: Path | str) -> str | None:
    """As :meth:`Statuses.nothing_readable`, of these rows."""
    statuses = Statuses()
    for _ in statuses.noted(rows):
        pass
    return statuses.nothing_readable(folder)


def look(names: Iterable[str], folder: Path, limits: ImagesParams, follow: Sequence[Path] = ()) -> list[ImageRow]:
    """Open the files of a few pictures without decoding them; the rows of all, or none as soon as one can be opened."""
    place = Folder(folder, limits, follow)
    rows = []
    for name in names:
        try:
            place.look(name)
        except PictureError as error:
            rows.append(ImageRow(name, status=error.status, error=str(error)))
        else:
            return []
    return rows
