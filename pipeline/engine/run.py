"""Running an extractor: pictures or posts → one row each, through the store of results.

What has a result that is stored is not read again, whatever happened to the run that read it. What is to be read is
decided in :mod:`pipeline.engine.plan`; reading it is left to an engine, such as :mod:`pipeline.engine.local`.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS, Sink, Subject
from pipeline.core.records import ImageRow
from pipeline.core.results import PartedResults, Results, of_shard
from pipeline.core.store import Store, batched, digest
from pipeline.engine.in_hand import InHand, taken
from pipeline.engine.inputs import Inputs, PictureInputs
from pipeline.engine.local import Reading
from pipeline.engine.outcome import Outcome, described, encoded
from pipeline.engine.plan import Job, Lacking, lacking, stored
from pipeline.engine.shards import Part, cut
from pipeline.extractors.base import (
    AnyExtractor,
    ExpectingExtractor,
    Extractor,
    LookupExtractor,
    MeteredExtractor,
    PostExtractor,
    Result,
    fingerprint_of,
)
from pipeline.images.pictures import Folder, Pictures
from pipeline.settings.params import ImagesParams


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of the pictures or posts of a run: each was read now, came from the store, or gave no result.

    `again` is what to run so that those are tried again which the extractor failed on; None where there are none.
    `used` is what an extractor says that its work has taken. `about` says what they are.
    """

    read: int
    from_store: int
    failed: int
    seconds: float
    again: str | None = None
    used: str = ""
    about: Subject = "picture"

    def __str__(self) -> str:
        total = self.read + self.from_store + self.failed
        line = (
            f"{total:,} {self.about}{'s' if total != 1 else ''}: {self.read:,} read, "
            f"{self.from_store:,} from the store, {self.failed:,} failed"
        )
        line += f"; {self.used}" if self.used else ""
        return line if self.again is None else f"{line}; to try again what failed here: {self.again}"


def extract(
    kind: str,
    extractor: AnyExtractor,
    manifest: Path | Iterable[ImageRow | Mapping[str, Any]],
    pictures: Path | Pictures | None,
    output: Path,
    results: Results | PartedResults,
    batch_size: int = 16,
    workers: int = 2,
    limits: ImagesParams | None = None,
    engine: "Engine | None" = None,
) -> Summary:
    """Write one row for each picture of a manifest to `output`, sorted by image: :func:`run` on pictures.

    Args:
        kind: what the extractor finds.
        extractor: its model is loaded where there is a picture to read.
        manifest: data/images.jsonl, or its rows.
        pictures: where they lie, such as a folder; None for a data set without.
        output: the file of the rows, or the folder of a kind that is tensors.
        results: the store.
        batch_size: pictures per batch, at most.
        workers: threads that decode.
        limits: on pictures, as in the manifest.
        engine: as of :func:`run`.

    Raises:
        UserError: the manifest is malformed, or as :func:`run`.
    """
    limits = limits or ImagesParams()
    source = Folder(pictures, limits) if isinstance(pictures, Path) else pictures
    of_stage = isinstance(manifest, Path)
    inputs = PictureInputs(manifest, source, limits)
    return run(kind, extractor, inputs, output, results, batch_size, workers, of_stage=of_stage, engine=engine)


def run(
    kind: str,
    extractor: AnyExtractor,
    inputs: Inputs,
    output: Path,
    results: Results | PartedResults,
    batch_size: int = 16,
    workers: int = 2,
    *,
    of_stage: bool = False,
    engine: "Engine | None" = None,
) -> Summary:
    """Write one row for each row of `inputs` to `output`, in its order and in the way of the kind; atomically.

    What cannot be read, or what the extractor fails on, gives a row that says so, and is tried again by the next call;
    `dvc repro` makes none while nothing else has changed, so the summary says what does. What the extractor is shown
    twice is read once. SIGTERM and Ctrl-C keep what is finished.

    Args:
        kind: what the extractor finds.
        extractor: its model is loaded where there is something to read.
        inputs: what it is shown: pictures, or posts.
        output: the file of the rows, or the folder of a kind that is tensors.
        results: the store.
        batch_size: pictures or posts per batch, at most.
        workers: threads that decode.
        of_stage: whether a stage of the pipeline runs it, for what the summary says.
        engine: what reads; by default this process, with the batch size and threads given.

    Raises:
        UserError: a row is malformed, the extractor does not load, breaks its contract, fails on one after another or
            on all that there are, or the store or output cannot be written.
    """
    started = time.monotonic()
    again = None
    key = None if isinstance(extractor, LookupExtractor) else digest(fingerprint_of(extractor))
    with _leaving_on_sigterm(), KINDS[kind].writing(output, key) as sink:
        if isinstance(extractor, LookupExtractor):
            read, from_results, failed = _write_looked_up(sink, kind, extractor, inputs)
        else:
            assert key is not None
            done, from_results, failed = _write(sink, kind, inputs, 0, results, key, None)
            read = 0
            if done is not None:
                work = planned(kind, extractor, inputs, results, key, done)
                outcome = (engine or Local(batch_size, workers)).read(work)
                read = outcome.count
                _, more, more_failed = _write(sink, kind, inputs, done, results, key, outcome.failures)
                from_results, failed = from_results + more - read, failed + more_failed
                if not from_results:
                    outcome.refuse_nothing(kind)
                if outcome.broken:
                    again = f"dvc repro --force --single-item {kind}" if of_stage else "run the same command once more"
    used = extractor.used() if isinstance(extractor, MeteredExtractor) else ""
    return Summary(read, from_results, failed, time.monotonic() - started, again, used, inputs.about)


def run_part(
    kind: str,
    extractor: AnyExtractor,
    inputs: Inputs,
    results: Results | PartedResults,
    part: Part,
    batch_size: int = 16,
    workers: int = 2,
    *,
    engine: "Engine | None" = None,
) -> Outcome:
    """Read what one of several processes is to read, which share out the shards; no row is written.

    Once all have ended, :func:`run` finds their results and tries again what failed. Arguments as there.

    Raises:
        UserError: as of :func:`run`; or the extractor looks up others' results, so that nothing is to be shared out.
    """
    if isinstance(extractor, LookupExtractor):
        raise UserError(f"--part {part}: {kind} looks up the results of others, all at once; run it without --part")
    key = digest(fingerprint_of(extractor))
    with _leaving_on_sigterm():
        work = planned(kind, extractor, inputs, results, key, part=part)
        outcome = (engine or Local(batch_size, workers)).read(work)
    outcome.refuse_nothing(kind)
    return outcome


class Engine(Protocol):
    """What reads a plan."""

    def read(self, work: "Work") -> Outcome:
        """Read all that lacks a result, and store it.

        Raises:
            UserError: the extractor does not load, breaks its contract, fails on one after another, or results cannot
                be stored; :class:`pipeline.extractors.base.UnavailableError` where what it reads with is gone.
        """
        ...


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine is to do.

    Attributes:
        kind: what the extractor finds.
        key: digest of its fingerprint.
        missing: the shards that lack results, from the first one at every call.
        sound: jobs that have a result.
        part: of the shards, those that this one of several processes reads; None: all.
    """

    kind: str
    extractor: Extractor | PostExtractor
    inputs: Inputs
    results: Results | PartedResults
    key: str
    missing: Callable[[], Iterator[Lacking]]
    sound: Callable[[], Iterator[Job]]
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Local:
    """Reads in this process, shard after shard."""

    batch_size: int = 16
    workers: int = 2

    def read(self, work: Work) -> Outcome:
        """As of :class:`Engine`."""
        with self.reading(work) as reading:
            reading.run(work.missing)
        return reading

    @contextmanager
    def reading(self, work: Work) -> Iterator[Reading]:
        """What reads, during the body of a `with`; its extractor is not loaded yet."""
        reading = Reading(
            work.kind, work.extractor, work.inputs.of, work.sound, work.key, self.batch_size, self.workers
        )
        with _in_hand(work.results, work.key) as reading.in_hand:
            if isinstance(work.results, Store):
                reading.known = partial(work.results.known, work.key)
            yield reading


def planned(
    kind: str,
    extractor: Extractor | PostExtractor,
    inputs: Inputs,
    results: Results | PartedResults,
    key: str,
    start: int = 0,
    part: Part | None = None,
) -> Work:
    """What there is to do for an engine, from shard number `start` on; other arguments as of :class:`Work`."""
    shared = None if isinstance(results, PartedResults) else inputs.repeated()

    def missing() -> Iterator[Lacking]:
        return lacking(inputs, results, key, start=start, repeated=shared, part=part)

    return Work(kind, extractor, inputs, results, key, missing, lambda: stored(inputs, results, key), part)


def _in_hand(results: Results | PartedResults, key: str) -> AbstractContextManager[InHand | None]:
    """Where it is written down what is being read: in the store's folder of this machine, where there is one."""
    folder = getattr(results, "folder", None)
    return taken(folder / "in-hand", key) if isinstance(folder, Path) else nullcontext()


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
    sink: Sink,
    kind: str,
    inputs: Inputs,
    start: int,
    results: Results | PartedResults,
    key: str,
    failures: Mapping[str, str] | None,
) -> tuple[int | None, int, int]:
    """Write rows of results, from shard number `start` on.

    Without `failures` (errors by key), stop at the first shard that lacks a result.

    Returns:
        The shard to go on from, or None at the end; how many rows have a result; how many have none.
    """
    n_stored = n_failed = 0
    for shard in cut(inputs.rows()):
        if shard.number >= start:
            place = of_shard(results, key, shard.name)
            wanted = [inputs.job(row).key if row["status"] == "ok" else "" for row in shard.rows]
            if failures is None:
                unlike = {each for each in wanted if each}
                if len(place.known(key, list(unlike))) < len(unlike):
                    return shard.number, n_stored, n_failed
            for window in batched(zip(shard.rows, wanted, strict=True), KINDS[kind].WINDOW):
                found = place.get_many(key, [each for _, each in window if each])
                for row, each in window:
                    status, error = row["status"], row["error"]
                    result = found.get(each)
                    if result is not None:
                        n_stored += 1
                    elif status == "ok":
                        status, error = "failed", (failures or {})[each]
                    n_failed += status != "ok"
                    sink.add(row, status, error, result)
        del shard  # before the next one is read
    return None, n_stored, n_failed


def _write_looked_up(sink: Sink, kind: str, extractor: LookupExtractor, inputs: Inputs) -> tuple[int, int, int]:
    """Write the rows of an extractor that reads other people's results; a hit counts, whatever the picture's status.

    Raises:
        UserError: it has an entry for none of the pictures or posts, so it is of some other data set.
    """
    if isinstance(extractor, ExpectingExtractor):
        extractor.expect(map(inputs.subject, inputs.rows()))
    total = entries = read = 0
    for row in inputs.rows():
        items = extractor.lookup(inputs.subject(row))
        status, error, result = _looked_up(kind, extractor, row, items)
        total, entries, read = total + 1, entries + (items is not None), read + (status == "ok")
        sink.add(row, status, error, result)
    if total and not entries:
        first = next(inputs.rows())
        name = first["image" if inputs.about == "picture" else "id"]
        source = getattr(extractor, "source", type(extractor).__name__)
        raise UserError(
            f"{kind}: {source} covers none of the data set's {total:,} {inputs.about}s, the first of which is "
            f"{name}; check that it belongs to this data set, and that {inputs.hint}"
        )
    return read, 0, total - read


def _looked_up(
    kind: str, extractor: LookupExtractor, row: Mapping[str, Any], items: "Result | None"
) -> tuple[str, str | None, bytes | None]:
    """Status, error and bytes of what was found for a picture; `items` is None where there is no entry."""
    if items is None:
        if row["status"] == "ok":
            return "missing", f"the extractor has no entry for this {KINDS[kind].about}", None
        return row["status"], row["error"], None
    try:
        return "ok", None, encoded(kind, extractor, items)
    except ValueError as error:
        return "failed", described(error), None
