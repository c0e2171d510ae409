"""The engine: a manifest of pictures → an extractor → one context row a picture, through the store.

Pictures are decoded ahead of the model in threads and results are stored while the next batch runs; a picture that
is in the store is not read again, whatever happened to the run that read it. What is found in a picture is the
extractor's business, what is done with the rows that of stages/views.py.
"""

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.core.files import atomic_write, read_jsonl
from pipeline.core.kinds import KINDS
from pipeline.core.records import ImageRow, Item
from pipeline.core.store import Store, batched, digest
from pipeline.extractors.base import (
    BucketingExtractor,
    Extractor,
    LookupExtractor,
    PreparingExtractor,
    is_out_of_memory,
)
from pipeline.images import manifest as images
from pipeline.settings.params import ImagesParams

_WINDOW = 2048  # rows looked up in the store at a time
_AHEAD = 2  # batches decoded, or being decoded, while one is with the model
_BATCH_PIXELS = 64_000_000  # a batch is closed early at so many pixels: large pictures make small batches
_AHEAD_PIXELS = 128_000_000  # and decoding does not run further ahead than this: 0.4 GB of RGB
_HOPELESS = 64  # pictures that fail in a row before the extractor is taken to be broken

Rows = Callable[[], Iterator[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the pictures of a run: each was read now, came from the store, or gave no result.

    `again` is what to run so that those are tried again which the extractor failed on; None where there are none.
    """

    read: int
    from_store: int
    failed: int
    seconds: float
    again: str | None = None

    def __str__(self) -> str:
        total = self.read + self.from_store + self.failed
        line = (
            f"{total:,} picture{'s' if total != 1 else ''}: {self.read:,} read, "
            f"{self.from_store:,} from the store, {self.failed:,} failed"
        )
        return line if self.again is None else f"{line}; to try again what failed here: {self.again}"


class Job(NamedTuple):
    """A picture to read, its size in pixels."""

    image: str
    sha256: str
    width: int
    height: int


def extract(
    kind: str,
    extractor: Extractor | LookupExtractor,
    manifest: Path | Iterable[ImageRow | Mapping[str, Any]],
    folder: Path | None,
    output: Path,
    store: Store,
    batch_size: int = 16,
    workers: int = 2,
    limits: ImagesParams | None = None,
) -> Summary:
    """Write one context row for each row of the manifest to `output`, sorted by image; atomically.

    A picture that cannot be read, or that the extractor fails on, gives a row that says so, and is tried again by the
    next call; `dvc repro` makes none while nothing else has changed, so the summary says what does. Pictures of
    identical bytes are read once. SIGTERM and Ctrl-C keep what is finished.

    Args:
        kind: what the extractor finds.
        manifest: data/images.jsonl, or its rows.
        folder: where the pictures lie; None for a data set without.
        batch_size: pictures a batch, at most.
        workers: threads that decode.
        limits: on pictures, as in the manifest.

    Raises:
        UserError: the manifest is malformed, the extractor keeps no contract, fails on one picture after another or
            on all that there are, or the store or output cannot be written.
    """
    started = time.monotonic()
    again = None
    rows = _rows(manifest)
    with _leaving_on_sigterm(), atomic_write(output) as file:
        if isinstance(extractor, LookupExtractor):
            read, stored, failed = _write_looked_up(file, kind, extractor, rows)
        else:
            key = digest(extractor.fingerprint())
            done, stored, failed = _write(file, kind, rows, 0, store, key, None)
            reading = _Reading(
                kind,
                extractor,
                folder,
                store,
                key,
                batch_size,
                workers,
                limits or ImagesParams(),
                lambda: _jobs(rows(), store, key, stored=True),
            )
            if done is not None:
                reading.run(lambda: _jobs(islice(rows(), done, None), store, key, stored=False))
                _, more_stored, more_failed = _write(file, kind, rows, done, store, key, reading.failures)
                stored, failed = stored + more_stored, failed + more_failed
            read = reading.count
            stored -= read
            if not stored:
                reading.refuse_nothing()
            if reading.broken:
                again = (
                    f"dvc repro --force --single-item {kind}"
                    if isinstance(manifest, Path)
                    else "run the same command once more"
                )
    return Summary(read, stored, failed, time.monotonic() - started, again)


def _rows(manifest: Path | Iterable[ImageRow | Mapping[str, Any]]) -> Rows:
    """The manifest's rows, to be gone through more than once."""
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
            raise UserError(f"{source}:{number}: no row of the image manifest; run dvc repro images") from None
        if name <= previous and number > 1:
            raise UserError(
                f"{source}:{number}: {name!r} after {previous!r}; expected rows sorted by image, each "
                "once; run dvc repro images"
            )
        previous = name
        yield row


@contextmanager
def _leaving_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does, so that what is finished is stored and no temporary file stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signal_number: int, _frame: object) -> None:
        raise SystemExit(128 + signal_number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(
    file: IO[str], kind: str, rows: Rows, start: int, store: Store, key: str, failures: Mapping[str, str] | None
) -> tuple[int | None, int, int]:
    """Write context rows from the store, from row `start` on.

    Without `failures` (errors by SHA-256), stop at the first window that lacks a result.

    Returns:
        The row to go on from, or None at the end; how many rows came from the store; how many have no result.
    """
    position, stored, failed = start, 0, 0
    for window in batched(islice(rows(), start, None), _WINDOW):
        wanted = [row["sha256"] for row in window if row["status"] == "ok"]
        found = store.get_many(key, wanted)
        if failures is None and any(sha256 not in found for sha256 in wanted):
            return position, stored, failed
        lines = []
        for row in window:
            sha256, status, error = row["sha256"], row["status"], row["error"]
            items = "[]"
            if status == "ok":
                if sha256 in found:
                    items = found[sha256].decode()
                    stored += 1
                else:
                    status, error = "failed", (failures or {})[sha256]
            failed += status != "ok"
            lines.append(KINDS[kind].line(row, status, error, items.encode()))
        file.writelines(lines)
        position += len(window)
    return None, stored, failed


def _write_looked_up(file: IO[str], kind: str, extractor: LookupExtractor, rows: Rows) -> tuple[int, int, int]:
    """Write the rows of an extractor that reads other people's results; a hit counts, whatever the picture's status.

    Raises:
        UserError: it has an entry for none of the pictures, so it is of some other data set.
    """
    total = entries = read = 0
    for row in rows():
        items = extractor.lookup(row["image"])
        status, error, text = _looked_up(kind, extractor, row, items)
        total, entries, read = total + 1, entries + (items is not None), read + (status == "ok")
        file.write(KINDS[kind].line(row, status, error, text.encode()))
    if total and not entries:
        first = next(rows())["image"]
        source = getattr(extractor, "source", type(extractor).__name__)
        raise UserError(
            f"{kind}: {source} covers none of the data set's {total:,} pictures, the first of which is "
            f"{first}; check that it belongs to this data set, and that data.image_name gives its names"
        )
    return read, 0, total - read


def _looked_up(
    kind: str, extractor: LookupExtractor, row: Mapping[str, Any], items: Sequence[Item] | None
) -> tuple[str, str | None, str]:
    """Status, error and JSON list of a picture that `items` were found for, or None where there is no entry."""
    if items is None:
        if row["status"] == "ok":
            return "missing", "the extractor has no entry for this picture", "[]"
        return row["status"], row["error"], "[]"
    try:
        return "ok", None, _as_json(kind, extractor, items)
    except ValueError as error:
        return "failed", _described(error), "[]"


def _jobs(rows: Iterable[Mapping[str, Any]], store: Store, key: str, *, stored: bool) -> Iterator[Job]:
    """The pictures that are readable and in the store, or not in it, each hash once, in the manifest's order."""
    seen: set[bytes] = set()
    for window in batched(rows, _WINDOW):
        readable = [row for row in window if row["status"] == "ok"]
        found = store.get_many(key, [row["sha256"] for row in readable])
        for row in readable:
            if (row["sha256"] in found) == stored and (raw := bytes.fromhex(row["sha256"])) not in seen:
                seen.add(raw)
                yield Job(row["image"], row["sha256"], row["width"], row["height"])


def _any_size(_width: int, _height: int) -> Hashable:
    return None


def _batches(jobs: Iterable[Job], size: int, bucket: Callable[[int, int], Hashable]) -> Iterator[list[Job]]:
    """Batches of at most `size`, of one bucket each.

    Which pictures stand together depends on the order alone, and whole batches are stored: so a run that was killed
    goes on with the batches it would have made, and ends with the very same numbers.
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


@dataclass(slots=True)
class _Reading:
    """Reads pictures and stores what is found; `failures` has the errors of those that gave nothing, by SHA-256.

    Of these, the extractor failed on `broken`, the picture was unfit in the others. `count` were read.
    """

    kind: str
    extractor: Extractor
    folder: Path | None
    store: Store
    key: str
    batch_size: int
    workers: int
    limits: ImagesParams
    known: Callable[[], Iterator[Job]]  # pictures whose results are stored
    failures: dict[str, str] = field(default_factory=dict)
    count: int = 0
    broken: int = 0
    _last: str = ""  # of those, with its error
    _most: int = sys.maxsize  # pictures a batch, once memory has run out
    _in_a_row: int = 0  # failures since the last success
    _writes: deque[Future[None]] = field(default_factory=deque)

    def run(self, missing: Callable[[], Iterator[Job]]) -> None:
        """Read every picture of `missing()`."""
        if self.folder is None:
            raise UserError(
                f"{self.kind}: the manifest has readable pictures, but data.images names no folder; "
                "run dvc repro images"
            )
        self.folder = self.folder.resolve()
        total = sum(1 for _ in missing()) if sys.stderr.isatty() else None
        bucket = self.extractor.bucket if isinstance(self.extractor, BucketingExtractor) else _any_size
        batches = _batches(missing(), self.batch_size, bucket)
        decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        finished = False
        try:
            with tqdm(total=total, desc=self.kind, unit="picture", disable=None) as progress:
                for jobs, pictures in self._decoded_ahead(batches, decoders):
                    self._read(*self._loaded(jobs, pictures), writer)
                    progress.update(len(jobs))
            self._settle_writes(0)
            finished = True
        finally:
            decoders.shutdown(wait=True, cancel_futures=True)
            writer.shutdown(wait=True)  # what is finished is kept
            if not finished and hasattr(self.extractor, "close"):
                self.extractor.close()  # leave no threads behind that go on reading

    def _decoded_ahead(
        self, batches: Iterable[list[Job]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Job], list[Future[Any]]]]:
        ahead: deque[tuple[list[Job], list[Future[Any]]]] = deque()
        pixels = 0
        for jobs in batches:
            ahead.append((jobs, [pool.submit(self._load, job) for job in jobs]))
            pixels += sum(job.width * job.height for job in jobs)
            while len(ahead) > _AHEAD or (len(ahead) > 1 and pixels > _AHEAD_PIXELS):
                pixels -= sum(job.width * job.height for job in ahead[0][0])
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()

    def _load(self, job: Job) -> Any:
        assert self.folder is not None  # run() has seen to it
        picture = images.load(self.folder, {"image": job.image, "sha256": job.sha256}, self.limits)
        return self.extractor.prepare(picture) if isinstance(self.extractor, PreparingExtractor) else picture

    def _loaded(self, jobs: Sequence[Job], pictures: Sequence[Future[Any]]) -> tuple[list[Job], list[Any]]:
        """The pictures that could be decoded, and those whose turn it was not to be are written down as failures."""
        ready: list[tuple[Job, Any]] = []
        for job, picture in zip(jobs, pictures, strict=True):
            try:
                ready.append((job, picture.result()))
            except UserError:
                raise
            except images.PictureError as error:
                self.failures[job.sha256] = _described(error)
            except Exception as error:  # the extractor's preparation may fail in any way; it becomes the picture's row
                self._fail(job, _described(error))
        return [job for job, _ in ready], [picture for _, picture in ready]

    def _fail(self, job: Job, failure: str) -> None:
        """Write down that the extractor failed on a picture.

        Raises:
            UserError: it has failed on too many in a row, and does on what it has read before, if there is any.
        """
        self.failures[job.sha256] = failure
        self.broken += 1
        self._last = f"{job.image}: {failure}"
        self._in_a_row += 1
        if self._in_a_row >= _HOPELESS:
            if not self._works():
                raise UserError(
                    f"{self.kind}: the extractor failed on {_HOPELESS} pictures in a row, lastly on "
                    f"{self._last}. What was read before is kept"
                )
            self._in_a_row = 0

    def _works(self) -> bool:
        """Whether the extractor still reads a picture that it has read before.

        Pictures that it fails on are not stored, so in a later run they all stand in a row.
        """
        self._settle_writes(0)
        for job in self.known():
            try:
                picture = self._load(job)
            except images.PictureError:  # no longer what it was
                continue
            except Exception:  # what is asked here is just whether it fails
                return False
            return self._attempt([job], [picture], {}) is None
        return False

    def refuse_nothing(self) -> None:
        """Stop where the extractor failed on all that it was given, which speaks against it, not the pictures.

        Raises:
            UserError: so it is, on two pictures or more.
        """
        if self.broken > 1 and not self.count:
            raise UserError(
                f"{self.kind}: the extractor failed on each of the {self.broken} pictures that it was "
                f"given, lastly on {self._last}. Nothing was read; mend that, or choose another extractor "
                f"or other options below {self.kind} in params.yaml"
            )

    def _read(self, jobs: list[Job], pictures: list[Any], writer: ThreadPoolExecutor) -> None:
        """Run one batch; where it fails, its halves, down to single pictures."""
        todo = [(jobs, pictures)] if jobs else []
        values: dict[str, bytes] = {}
        while todo:
            jobs, pictures = todo.pop()
            if len(jobs) > self._most:
                todo.append((jobs[self._most :], pictures[self._most :]))
                jobs, pictures = jobs[: self._most], pictures[: self._most]
            failure = self._attempt(jobs, pictures, values)
            if failure is None:
                self._in_a_row = 0
            elif len(jobs) > 1:
                half = len(jobs) // 2
                todo += [(jobs[half:], pictures[half:]), (jobs[:half], pictures[:half])]
            else:
                self._fail(jobs[0], failure)
        if values:
            self.count += len(values)
            self._settle_writes(3)
            self._writes.append(writer.submit(self.store.put_many, self.key, values))

    def _attempt(self, jobs: Sequence[Job], pictures: Sequence[Any], values: dict[str, bytes]) -> str | None:
        """Put the batch's results among `values`; give the error where it fails as a whole."""
        try:
            run = (
                self.extractor.extract_prepared
                if isinstance(self.extractor, PreparingExtractor)
                else self.extractor.extract
            )
            results = run(pictures)
            if len(results) != len(jobs):
                raise UserError(
                    f"{self.kind}: {type(self.extractor).__name__} gave {len(results)} results for "
                    f"{len(jobs)} pictures; expected one list of {KINDS[self.kind].item.__name__} for each"
                )
            texts = [_as_json(self.kind, self.extractor, items) for items in results]
        except UserError:
            raise
        except Exception as error:  # an extractor may fail in any way; it becomes the picture's row
            failure, out_of_memory = _described(error), is_out_of_memory(error)
        else:
            values.update((job.sha256, text.encode()) for job, text in zip(jobs, texts, strict=True))
            return None
        if out_of_memory:  # now that the error, and with it the batch's tensors, is gone
            self._most = max(1, len(jobs) // 2)
            if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
                sys.modules["torch"].cuda.empty_cache()
        return failure

    def _settle_writes(self, most: int) -> None:
        """Wait until at most so many writes are under way; raise the error of one that failed."""
        while len(self._writes) > most:
            self._writes.popleft().result()


def _as_json(kind: str, extractor: object, items: Sequence[Item]) -> str:
    """The list of a context record.

    Raises:
        ValueError: a number is not finite, or a text holds an unpaired surrogate.
        UserError: it is no list of this kind's items.
    """
    try:
        return KINDS[kind].dump(items).decode()
    except TypeError as error:
        raise UserError(f"{kind}: {type(extractor).__name__} gave {error}") from None


def _described(error: BaseException) -> str:
    """What a row says of an error, on one line that can be written as UTF-8."""
    message = " ".join(str(error).split()).encode(errors="backslashreplace").decode()
    if isinstance(error, images.PictureError):
        return message
    return f"{type(error).__name__}: {message}"[:500] if message else type(error).__name__
