"""The manifest: one row for each picture that a data set names, with its hash, size and status.

Whatever is wrong with a picture becomes a status in its row, never a crash and never a substitute. Finding and reading
a picture's file is left to :mod:`pipeline.images.pictures`, decoding to :mod:`pipeline.images.decoding`.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.machine import cores
from pipeline.core.names import has_unpaired_surrogate
from pipeline.core.progress import Progress
from pipeline.core.records import ImageRow
from pipeline.core.scratch import Distinct
from pipeline.core.store import Store, batched, digest
from pipeline.images.decoding import DecoderEndedError, Decoders, PictureError
from pipeline.images.pictures import Folder, StampedPictures
from pipeline.settings.params import ImagesParams

VERSION = 1
"""Raised when the same bytes would give another row, so that rows kept from earlier runs are not used."""

_WINDOW = 2048  # names looked up at a time
_BATCH = 16  # pictures given to a decoding process at a time,
_BATCH_BYTES = 4_000_000  # or fewer where they are large

_Examined = tuple[ImageRow, str | None]


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
    ordered = Distinct(map(_writable, names))
    if folder is None:
        return (
            ImageRow(name, status="missing", error="the data set has no pictures (data.images is null)")
            for name in ordered
        )
    if isinstance(folder, Path):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of pictures (data.root and data.images in params.yaml)")
        folder = Folder(folder, limits, follow)
    return _manifest(ordered, folder, limits, store, workers or cores())


def _writable(name: str) -> str:
    """The name itself; raises UserError where it cannot be written as UTF-8."""
    if has_unpaired_surrogate(name):
        raise UserError(
            f"picture {name!r}: the name contains an unpaired surrogate and cannot be "
            "written as UTF-8; fix the id in the data set"
        )
    return name


def _manifest(
    names: Distinct, place: StampedPictures, limits: ImagesParams, store: Store | None, workers: int
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
        with Progress("images", "picture", len(names)) as progress:
            for window in batched(names, _WINDOW):
                stamps = {name: stamp for name in window if (stamp := place.stamp(name))}
                known = store.get_many(key, list(stamps.values())) if store and stamps else {}
                rows: dict[str, ImageRow | tuple[Future[list[_Examined]], int]] = {
                    name: ImageRow(name, **loads(known[stamp])) for name, stamp in stamps.items() if stamp in known
                }
                for batch in batched((name for name in window if name not in rows), _BATCH):
                    future = pool.submit(
                        _examine, place, [(name, stamps.get(name)) for name in batch], limits, decoders
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
