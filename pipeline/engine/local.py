"""The local engine: reads what a plan lacks, shard by shard, with one extractor, and stores what it finds.

Pictures are decoded ahead of the model in threads, and results are stored while the next batch runs. What is to be
read is decided in :mod:`pipeline.engine.plan`.
"""

import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.core.machine import is_out_of_memory
from pipeline.core.progress import Progress
from pipeline.core.results import save
from pipeline.engine import plan
from pipeline.engine.ahead import Turn, decoded_ahead, threads
from pipeline.engine.apart import Died, NotStartedError, apart
from pipeline.engine.in_hand import InHand, without
from pipeline.engine.inputs import Shown
from pipeline.engine.outcome import Outcome, described, encoded
from pipeline.engine.plan import Job, Lacking
from pipeline.extractors.base import (
    BucketingExtractor,
    Extractor,
    PostExtractor,
    PreparingExtractor,
    UnavailableError,
    is_own,
    load,
)
from pipeline.images.decoding import PictureError

_HOPELESS = 64  # pictures or posts that fail in a row before the extractor is taken to be broken
_DEADLY = 8  # likewise pictures that the process dies of, each of which costs loading the model


class _Answer(NamedTuple):
    """What a child process found in a batch, and what failed in there."""

    values: dict[str, bytes]
    outcome: Outcome


@dataclass(slots=True)
class Reading(Outcome):
    """Reads pictures or posts and stores what is found."""

    kind: str
    extractor: Extractor | PostExtractor
    of: Callable[[Sequence[Job]], Shown]
    """What jobs show the extractor."""
    sound: Callable[[], Iterable[Job]]
    """Some that the extractor has read before, in this run or another."""
    key: str
    """Digest of the extractor's fingerprint."""
    batch_size: int
    workers: int
    """Threads that decode."""
    in_hand: InHand | None = None
    """Where it is written down what is being read, and what dead runs had in hand; None: nowhere."""
    known: Callable[[Sequence[str]], set[str]] = field(default=lambda _keys: set())
    """Of keys of whatever data set, those that have a result already."""
    progressed: Callable[[], None] = field(default=lambda: None)
    """Called after each batch, and once a shard is stored."""
    gone: UnavailableError | None = None
    """What the extractor reads with is; then only what it has is collected."""
    _most: int = sys.maxsize  # pictures per batch, once memory has run out
    _in_a_row: int = 0  # failures since the last success
    _lately: Sequence[Job] = ()  # of the last batch that was read
    _showed: bool = False  # whether an error of a class of the user's own was shown in full
    _writes: deque[Future[None]] = field(default_factory=deque)

    def run(self, missing: Callable[[], Iterator[Lacking]]) -> None:
        """Load the extractor and read all of `missing()`; first, in a child process, what dead runs left.

        Raises:
            UserError: the extractor does not load, breaks its contract or fails on one after another, or results
                cannot be stored; UnavailableError where what it reads with is gone.
        """
        rest = self.begin(missing)
        if next(rest(), None) is None:
            return
        self.load_extractor()
        self.read(rest(), sum(len(shard.jobs) for shard in rest()))

    def begin(self, missing: Callable[[], Iterator[Lacking]]) -> Callable[[], Iterator[Lacking]]:
        """Read in a child process what dead runs left; give what is then still to be read.

        Raises:
            UserError: as of :meth:`run`.
        """
        first = next(missing(), None)
        if first is not None:
            self.shown(first.jobs)
            self._read_left(missing)

        def rest() -> Iterator[Lacking]:
            for shard in missing():
                jobs = [job for job in shard.jobs if job.key not in self.failures]
                if jobs:
                    yield shard._replace(jobs=jobs)

        return rest

    def read(self, shards: Iterable[Lacking], total: int | None = None, only: Sequence[Sequence[Job]] = ()) -> None:
        """Read shards, now that the extractor is loaded.

        Args:
            shards: what to read of them.
            total: how many jobs there are, for who looks on.
            only: the batches to read, where they are not all that the jobs of the one shard make.

        Raises:
            UserError: as of :meth:`run`.
        """
        with (
            self.closing(),
            threads(self.workers) as (decoders, writer),
            Progress(self.kind, KINDS[self.kind].about, total) as progress,
        ):
            for shard in shards:
                self._read_shard(shard, only or self.batches(shard.jobs), decoders, writer, progress)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close the extractor where the body of a `with` fails: leave no threads behind that go on reading."""
        try:
            yield
        except BaseException:
            if hasattr(self.extractor, "close"):
                self.extractor.close()
            raise

    def batches(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """The batches that the jobs of a shard make; the extractor is loaded."""
        bucket = self.extractor.bucket if isinstance(self.extractor, BucketingExtractor) else plan.any_size
        return plan.batches(jobs, self.batch_size, bucket)

    def _read_shard(
        self,
        shard: Lacking,
        batches: Iterable[Sequence[Job]],
        decoders: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        shown = self.shown(shard.jobs)
        try:
            for turn in decoded_ahead((Turn(self, shard, shown, batch) for batch in batches), decoders):
                self.take(turn, writer)
                progress.update(len(turn.jobs))
            self.settle()
        finally:
            self.keep(shard)

    def take(self, turn: Turn, writer: ThreadPoolExecutor) -> None:
        """Read a batch, and have what is found stored.

        Raises:
            UserError: the extractor breaks its contract or fails on one after another, or results cannot be stored.
        """
        values = self._read(*self._loaded(turn.jobs, turn.pictures))
        if self.in_hand is not None:
            self.in_hand.end([job.key for job in turn.jobs])
        if values:
            self.count += len(values)
            self._settle_writes(3)
            self._writes.append(writer.submit(turn.shard.results.put_many, self.key, values))
        self.progressed()

    def settle(self) -> None:
        """Wait until all is stored, at the end of a shard; raises UserError as of :meth:`run`."""
        self._settle_writes(0)
        if self.gone is not None:
            raise self.gone

    def keep(self, shard: Lacking) -> None:
        """See that what is finished of a shard is kept, however it ended."""
        wait(self._writes)
        save(shard.results)
        self.progressed()

    def shown(self, jobs: Sequence[Job]) -> Shown:
        """What jobs show; raises UserError where they cannot be read at all."""
        shown = self.of(jobs)
        try:
            shown.require()
        except UserError as error:
            raise UserError(f"{self.kind}: {error}") from None
        return shown

    def _read_left(self, missing: Callable[[], Iterator[Lacking]]) -> None:
        """Read what dead runs had in hand, in a child process: a picture that it dies of is a failure.

        Where the child cannot load the extractor, all of it stays to be read like any other.

        Raises:
            UserError: the child dies of one picture after another, or as :meth:`run`.
        """
        hand = self.in_hand
        if hand is None or not hand.left:
            return
        names = {name for batch in hand.left for name in batch}
        jobs = {job.key: job for shard in missing() for job in shard.jobs if job.key in names}
        places = {job.key: shard.results for shard in missing() for job in shard.jobs if job.key in jobs}
        hand.leave(without(hand.left, self.known(sorted(names - jobs.keys()))))
        shown = self.of(list(jobs.values()))
        batches = [[jobs.pop(name) for name in batch if name in jobs] for batch in hand.left]
        deaths = 0
        with suppress(NotStartedError):
            for batch, answer in apart(self.load_extractor, partial(self._read_apart, shown), filter(None, batches)):
                if isinstance(answer, Died):
                    deaths += 1
                    self._died(batch[0], answer, deaths)
                    continue
                deaths = 0
                place = places[batch[0].key]
                place.put_many(self.key, answer.values)
                save(place)
                self.add(answer.outcome)
                hand.leave(without(hand.left, {job.key for job in batch}))

    def _read_apart(self, shown: Shown, batch: list[Job]) -> _Answer:
        """Read a batch in a child process, which goes on from where its parent was and leaves the store alone."""
        self.failures, self.unfit, self.broken, self.last = {}, set(), 0, ""
        self._in_a_row = -len(batch)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="decode") as decoders:
            values = self._read(*self._loaded(batch, [decoders.submit(self._load, shown, job) for job in batch]))
        self.count = len(values)
        return _Answer(values, self.alone())

    def _died(self, job: Job, died: Died, in_a_row: int) -> None:
        """Write down that a process died of a picture; it stays among what is left, for other runs to take care.

        Raises:
            UserError: so it did of too many in a row.
        """
        self.failures[job.key] = f"the process that read it ended with {died.how}"
        self.broken += 1
        self.last = f"{job.name}: {self.failures[job.key]}"
        if in_a_row >= _DEADLY:
            raise UserError(
                f"{self.kind}: {type(self.extractor).__name__} ends its process on one {KINDS[self.kind].about} after "
                f"another, lastly on {self.last}. What was read before is kept; choose another extractor, or see that "
                "its packages belong together and that there is memory enough"
            )

    def load_extractor(self) -> None:
        """Load the extractor; raises UserError where that fails."""
        try:
            load(self.extractor)
        except UserError:
            raise
        except Exception as error:  # no picture is the cause, so it is nobody's row
            raise UserError(
                f"{self.kind}: {type(self.extractor).__name__} could not be loaded: {described(error)}"
            ) from error

    def decode(self, turn: Turn, pool: ThreadPoolExecutor) -> Turn:
        """Have the pictures of a batch decoded."""
        if self.in_hand is not None:
            self.in_hand.begin([job.key for job in turn.jobs])
        return turn._replace(pictures=[pool.submit(self._load, turn.shown, job) for job in turn.jobs])

    def _load(self, shown: Shown, job: Job) -> Any:
        found = shown.load(job)
        return self.extractor.prepare(found) if isinstance(self.extractor, PreparingExtractor) else found

    def _loaded(self, batch: Sequence[Job], pictures: Sequence[Future[Any]]) -> tuple[list[Job], list[Any]]:
        """The pictures that could be decoded, and those whose turn it was not to be are written down as failures."""
        ready: list[tuple[Job, Any]] = []
        for job, picture in zip(batch, pictures, strict=True):
            try:
                ready.append((job, picture.result()))
            except UserError:
                raise
            except PictureError as error:
                self.failures[job.key] = described(error)
                self.unfit.add(job.key)
            except Exception as error:  # the extractor's preparation may fail in any way; it becomes the picture's row
                self._show(error)
                self._fail(job, described(error))
        return [job for job, _ in ready], [picture for _, picture in ready]

    def _fail(self, job: Job, failure: str) -> None:
        """Write down that the extractor failed on a picture.

        Raises:
            UserError: it has failed on too many in a row, and does on what it has read before, if there is any.
        """
        self.failures[job.key] = failure
        self.broken += 1
        self.last = f"{job.name}: {failure}"
        self._in_a_row += 1
        if self._in_a_row >= _HOPELESS:
            if not self._works():
                raise UserError(
                    f"{self.kind}: the extractor failed on {_HOPELESS} {KINDS[self.kind].about}s in a row, lastly on "
                    f"{self.last}. What was read before is kept"
                )
            self._in_a_row = 0

    def _works(self) -> bool:
        """Whether the extractor still reads a picture that it has read before.

        Pictures that it fails on are not stored, so in a later run they all stand in a row.
        """
        self._settle_writes(0)
        for job in chain(self._lately, self.sound()):
            try:
                picture = self._load(self.of([job]), job)
            except PictureError:  # no longer what it was
                continue
            except Exception:  # the question is just whether it fails
                return False
            return self._attempt([job], [picture], {}) is None
        return False

    def _read(self, jobs: list[Job], pictures: list[Any]) -> dict[str, bytes]:
        """Run one batch; where it fails, its halves, down to single pictures. Give the results by SHA-256."""
        todo = [(jobs, pictures)] if jobs else []
        values: dict[str, bytes] = {}
        while todo:
            jobs, pictures = todo.pop()
            if len(jobs) > self._most:
                todo.append((jobs[self._most :], pictures[self._most :]))
                jobs, pictures = jobs[: self._most], pictures[: self._most]
            failure: str | None
            try:
                failure = self._attempt(jobs, pictures, values)
            except UnavailableError as error:
                failure, self.gone = described(error), error
            if failure is None:
                self._in_a_row, self._lately = 0, jobs[-1:]
            elif len(jobs) > 1:
                half = len(jobs) // 2
                todo += [(jobs[half:], pictures[half:]), (jobs[:half], pictures[:half])]
            elif self.gone is None:
                self._fail(jobs[0], failure)
        return values

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
                    f"{len(jobs)} {KINDS[self.kind].about}s; expected {KINDS[self.kind].expected} for each"
                )
            found = [encoded(self.kind, self.extractor, result) for result in results]
        except UserError:
            raise
        except Exception as error:  # an extractor may fail in any way; it becomes the picture's row
            failure, out_of_memory = described(error), is_out_of_memory(error)
            if not out_of_memory:
                self._show(error)
        else:
            values.update(zip((job.key for job in jobs), found, strict=True))
            return None
        if out_of_memory:  # now that the error, and with it the batch's tensors, is gone
            self._most = max(1, len(jobs) // 2)
            if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
                sys.modules["torch"].cuda.empty_cache()
        return failure

    def _show(self, error: Exception) -> None:
        """Show where a class of the user's own failed, once a run; the rows have the messages."""
        if self._showed or isinstance(error, UserError) or not is_own(type(self.extractor)):
            return
        self._showed = True
        lines = "".join(traceback.format_exception(error))
        tqdm.write(
            f"{self.kind}: {type(self.extractor).__name__} failed, as here for the first time:\n{lines}", sys.stderr
        )

    def _settle_writes(self, most: int) -> None:
        """Wait until at most so many writes are under way; raise the error of one that failed."""
        while len(self._writes) > most:
            self._writes.popleft().result()
