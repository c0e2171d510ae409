"""The local engine: reads the pictures or posts of a plan with one extractor, and stores what it finds.

Pictures are decoded ahead of the model in threads, and results are stored while the next batch runs. What is to be
read is decided in :mod:`pipeline.engine.plan`.
"""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.core.machine import is_out_of_memory
from pipeline.engine import plan
from pipeline.engine.apart import Died, NotStartedError, apart
from pipeline.engine.in_hand import InHand, without
from pipeline.engine.inputs import Inputs
from pipeline.engine.plan import Job, Results
from pipeline.extractors.base import (
    BucketingExtractor,
    Extractor,
    PostExtractor,
    PreparingExtractor,
    Result,
    UnavailableError,
    load,
)
from pipeline.images.decoding import PictureError

_AHEAD = 2  # batches decoded, or being decoded, while one is with the model
_AHEAD_PIXELS = 128_000_000  # and decoding does not run further ahead than this: 0.4 GB of RGB
_HOPELESS = 64  # pictures or posts that fail in a row before the extractor is taken to be broken
_DEADLY = 8  # likewise pictures that the process dies of, each of which costs loading the model


class _Answer(NamedTuple):
    """What a child process found in a batch, and what failed in there."""

    values: dict[str, bytes]
    failures: dict[str, str]
    broken: int
    last: str


@dataclass(slots=True)
class Reading:
    """Reads pictures or posts and stores what is found; `failures` has the errors of those that gave nothing, by key.

    Of these, the extractor failed on `broken`; in the others a picture was unfit. `count` were read.
    """

    kind: str
    extractor: Extractor | PostExtractor
    inputs: Inputs
    """All of them, read before or not."""
    results: Results
    key: str
    """Digest of the extractor's fingerprint."""
    batch_size: int
    workers: int
    """Threads that decode."""
    in_hand: InHand | None = None
    """Where it is written down what is being read, and what dead runs had in hand; None: nowhere."""
    failures: dict[str, str] = field(default_factory=dict)
    count: int = 0
    broken: int = 0
    _last: str = ""  # of those, with its error
    _most: int = sys.maxsize  # pictures per batch, once memory has run out
    _in_a_row: int = 0  # failures since the last success
    _gone: UnavailableError | None = None  # what the extractor reads with; then only what it has is collected
    _writes: deque[Future[None]] = field(default_factory=deque)

    def run(self, missing: Callable[[], Iterator[Job]]) -> None:
        """Load the extractor and read all of `missing()`; first, in a child process, what dead runs left.

        Raises:
            UserError: the extractor does not load, breaks its contract or fails on one after another, or results
                cannot be stored; UnavailableError where what it reads with is gone.
        """
        try:
            self.inputs.require()
        except UserError as error:
            raise UserError(f"{self.kind}: {error}") from None
        self._read_left(missing)

        def rest() -> Iterator[Job]:
            return (job for job in missing() if job.key not in self.failures)

        if next(rest(), None) is None:
            return
        self._load_extractor()
        total = sum(1 for _ in rest()) if sys.stderr.isatty() else None
        bucket = self.extractor.bucket if isinstance(self.extractor, BucketingExtractor) else plan.any_size
        planned = plan.batches(rest(), self.batch_size, bucket)
        decoders = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        finished = False
        try:
            with tqdm(total=total, desc=self.kind, unit=self.inputs.about, disable=None) as progress:
                for batch, pictures in self._decoded_ahead(planned, decoders):
                    values = self._read(*self._loaded(batch, pictures))
                    if self.in_hand is not None:
                        self.in_hand.end([job.key for job in batch])
                    if values:
                        self.count += len(values)
                        self._settle_writes(3)
                        self._writes.append(writer.submit(self.results.put_many, self.key, values))
                    progress.update(len(batch))
            self._settle_writes(0)
            if self._gone is not None:
                raise self._gone
            finished = True
        finally:
            decoders.shutdown(wait=True, cancel_futures=True)
            writer.shutdown(wait=True)  # what is finished is kept
            if not finished and hasattr(self.extractor, "close"):
                self.extractor.close()  # leave no threads behind that go on reading

    def _read_left(self, missing: Callable[[], Iterator[Job]]) -> None:
        """Read what dead runs had in hand, in a child process: a picture that it dies of is a failure.

        Where the child cannot load the extractor, all of it stays to be read like any other.

        Raises:
            UserError: the child dies of one picture after another, or as :meth:`run`.
        """
        hand = self.in_hand
        if hand is None or not hand.left:
            return
        names = {name for batch in hand.left for name in batch}
        hand.leave(without(hand.left, self.results.get_many(self.key, sorted(names))))
        jobs = {job.key: job for job in missing() if job.key in names}
        batches = [[jobs.pop(name) for name in batch if name in jobs] for batch in hand.left]
        deaths = 0
        with suppress(NotStartedError):
            for batch, answer in apart(self._load_extractor, self._read_apart, filter(None, batches)):
                if isinstance(answer, Died):
                    deaths += 1
                    self._died(batch[0], answer, deaths)
                    continue
                deaths = 0
                self.results.put_many(self.key, answer.values)
                self.count += len(answer.values)
                self.failures |= answer.failures
                self.broken += answer.broken
                self._last = answer.last or self._last
                hand.leave(without(hand.left, {job.key for job in batch}))

    def _read_apart(self, batch: list[Job]) -> _Answer:
        """Read a batch in a child process, which goes on from where its parent was and leaves the store alone."""
        self.failures, self.broken, self._last = {}, 0, ""
        self._in_a_row = -len(batch)
        with ThreadPoolExecutor(self.workers, thread_name_prefix="decode") as decoders:
            values = self._read(*self._loaded(batch, [decoders.submit(self._load, job) for job in batch]))
        return _Answer(values, self.failures, self.broken, self._last)

    def _died(self, job: Job, died: Died, in_a_row: int) -> None:
        """Write down that a process died of a picture; it stays among what is left, for other runs to take care.

        Raises:
            UserError: so it did of too many in a row.
        """
        self.failures[job.key] = f"the process that read it ended with {died.how}"
        self.broken += 1
        self._last = f"{job.name}: {self.failures[job.key]}"
        if in_a_row >= _DEADLY:
            raise UserError(
                f"{self.kind}: {type(self.extractor).__name__} ends its process on one {self.inputs.about} after "
                f"another, lastly on {self._last}. What was read before is kept; choose another extractor, or see that "
                "its packages belong together and that there is memory enough"
            )

    def _load_extractor(self) -> None:
        try:
            load(self.extractor)
        except UserError:
            raise
        except Exception as error:  # no picture is the cause, so it is nobody's row
            raise UserError(
                f"{self.kind}: {type(self.extractor).__name__} could not be loaded: {described(error)}"
            ) from error

    def _decoded_ahead(
        self, batches: Iterable[list[Job]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[list[Job], list[Future[Any]]]]:
        ahead: deque[tuple[list[Job], list[Future[Any]]]] = deque()
        pixels = 0
        for jobs in batches:
            if self._gone is not None:
                break
            if self.in_hand is not None:
                self.in_hand.begin([job.key for job in jobs])
            ahead.append((jobs, [pool.submit(self._load, job) for job in jobs]))
            pixels += sum(job.width * job.height for job in jobs)
            while len(ahead) > _AHEAD or (len(ahead) > 1 and pixels > _AHEAD_PIXELS):
                pixels -= sum(job.width * job.height for job in ahead[0][0])
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()

    def _load(self, job: Job) -> Any:
        shown = self.inputs.load(job)
        return self.extractor.prepare(shown) if isinstance(self.extractor, PreparingExtractor) else shown

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
            except Exception as error:  # the extractor's preparation may fail in any way; it becomes the picture's row
                self._fail(job, described(error))
        return [job for job, _ in ready], [picture for _, picture in ready]

    def _fail(self, job: Job, failure: str) -> None:
        """Write down that the extractor failed on a picture.

        Raises:
            UserError: it has failed on too many in a row, and does on what it has read before, if there is any.
        """
        self.failures[job.key] = failure
        self.broken += 1
        self._last = f"{job.name}: {failure}"
        self._in_a_row += 1
        if self._in_a_row >= _HOPELESS:
            if not self._works():
                raise UserError(
                    f"{self.kind}: the extractor failed on {_HOPELESS} {self.inputs.about}s in a row, lastly on "
                    f"{self._last}. What was read before is kept"
                )
            self._in_a_row = 0

    def _works(self) -> bool:
        """Whether the extractor still reads a picture that it has read before.

        Pictures that it fails on are not stored, so in a later run they all stand in a row.
        """
        self._settle_writes(0)
        for job in plan.jobs(readable(self.inputs), self.results, self.key, stored=True):
            try:
                picture = self._load(job)
            except PictureError:  # no longer what it was
                continue
            except Exception:  # the question is just whether it fails
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
                f"{self.kind}: the extractor failed on each of the {self.broken} {self.inputs.about}s that it was "
                f"given, lastly on {self._last}. Nothing was read; fix that, or choose another extractor "
                f"or other options below {self.kind} in params.yaml"
            )

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
                failure, self._gone = described(error), error
            if failure is None:
                self._in_a_row = 0
            elif len(jobs) > 1:
                half = len(jobs) // 2
                todo += [(jobs[half:], pictures[half:]), (jobs[:half], pictures[:half])]
            elif self._gone is None:
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
                    f"{len(jobs)} {self.inputs.about}s; expected {KINDS[self.kind].expected} for each"
                )
            found = [encoded(self.kind, self.extractor, result) for result in results]
        except UserError:
            raise
        except Exception as error:  # an extractor may fail in any way; it becomes the picture's row
            failure, out_of_memory = described(error), is_out_of_memory(error)
        else:
            values.update(zip((job.key for job in jobs), found, strict=True))
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


def readable(inputs: Inputs, start: int = 0) -> Iterator[Job]:
    """What there is to read, from row `start` on."""
    return (inputs.job(row) for row in islice(inputs.rows(), start, None) if row["status"] == "ok")


def encoded(kind: str, extractor: object, result: Result) -> bytes:
    """What was found in a picture, as the store keeps it.

    Raises:
        ValueError: a number is not finite, or a text contains an unpaired surrogate.
        UserError: `result` is none of this kind.
    """
    try:
        return KINDS[kind].dump(result)
    except TypeError as error:
        raise UserError(f"{kind}: {type(extractor).__name__} gave {error}") from None


def described(error: BaseException) -> str:
    """What a row says of an error, on one line that can be written as UTF-8."""
    message = " ".join(str(error).split()).encode(errors="backslashreplace").decode()
    if isinstance(error, PictureError):
        return message
    return f"{type(error).__name__}: {message}"[:500] if message else type(error).__name__
