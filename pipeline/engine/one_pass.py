"""An engine that decodes each picture once for several kinds: the own one of a stage, and others that are read along.

Each kind forms the batches that it would form alone; what others find goes where results go, and their own stages find
it there. Only the own kind's errors end a run. How a batch is read is left to :mod:`pipeline.engine.local`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from heapq import merge
from itertools import accumulate
from threading import Lock
from typing import Any, ClassVar, TypeAlias

from PIL import Image

from pipeline.core.kinds import Subject
from pipeline.core.progress import Progress
from pipeline.engine.ahead import Turn, decoded_ahead, threads
from pipeline.engine.along import Along, WithOthers
from pipeline.engine.inputs import ShownPictures
from pipeline.engine.local import Reading
from pipeline.engine.outcome import Outcome
from pipeline.engine.plan import Job, Lacking
from pipeline.engine.run import Local, Work
from pipeline.extractors.base import MeteredExtractor

Group: TypeAlias = dict[str, tuple[Reading, Lacking]]
"""Of a shard: what each kind lacks in it, and who reads that."""
_Plan: TypeAlias = list[tuple[str, int, Turn]]  # batches, each behind the picture that it is complete with, and a rank
_HELD_PIXELS = 128_000_000  # decoded pictures that wait for another kind's batch: 0.4 GB of RGB


@dataclass(frozen=True, slots=True)
class OnePass:
    """Reads in this process, shard after shard, with what others lack in a shard that the own kind lacks results of.

    Attributes:
        batch_size: pictures per batch of the own kind, at most.
        workers: threads that decode.
        along: what makes the others, by kind; it gives None where there is nothing to read along. Each is asked where
            there is something to read.
    """

    batch_size: int
    workers: int
    along: Mapping[str, Callable[[], Along | None]]

    def read(self, work: Work) -> Outcome:
        """As of :class:`pipeline.engine.run.Engine`."""
        with ExitStack() as ends:
            own = ends.enter_context(Local(self.batch_size, self.workers).reading(work))
            rest = own.begin(work.missing)
            if next(rest(), None) is None:
                return own
            together = Together(own)
            for kind, make in self.along.items():  # children are forked here, before any model is loaded
                together.attempt(kind, partial(self._begin, work, make, together, ends))
            own.load_extractor()
            for kind, other in list(together.others.items()):
                together.attempt(kind, other.load_extractor)
            others = dict(together.others)
            total = sum(len(shard.jobs) for shard in rest())
            together.read(_groups(together, rest()), self.workers, total)
        for kind, other in others.items():
            together.tell(kind, other, other.extractor.used() if isinstance(other.extractor, MeteredExtractor) else "")
        return own

    def _begin(self, work: Work, make: Callable[[], Along | None], together: "Together", ends: ExitStack) -> None:
        """Put another kind among those that are read together, where it lacks results."""
        along = make()
        if along is None:
            return
        theirs = along.work(work)
        reading = ends.enter_context(Local(along.batch_size, self.workers).reading(theirs))
        rest = reading.begin(theirs.missing)
        if next(rest(), None) is not None:
            together.add(along.kind, reading, rest())


def _groups(together: "Together", rest: Iterable[Lacking]) -> Iterator[Group]:
    """The shards that the own kind lacks results of, with what the others lack in each."""
    for shard in rest:
        group = {together.kind: (together.own, shard)}
        for kind, lacks in together.lacking(shard.number).items():
            group[kind] = together.others[kind], lacks
        yield group


class Together(WithOthers[Reading]):
    """The readings of several kinds, each with its extractor loaded when they read."""

    def __init__(self, own: Reading, left: Callable[[str, str], object] | None = None) -> None:
        super().__init__(own.kind, left)
        self.own = own

    def read(self, groups: Iterable[Group], workers: int, total: int | None = None) -> None:
        """Read what several kinds lack in shards.

        Args:
            groups: of each shard, with the own kind in each.
            workers: threads that decode.
            total: how many jobs of the own kind there are, for who looks on.

        Raises:
            UserError: as of :meth:`pipeline.engine.local.Reading.run`, of the own kind.
        """
        with ExitStack() as ends:
            for reading in (self.own, *self.others.values()):
                ends.enter_context(reading.closing())
            decoders, writer = ends.enter_context(threads(workers))
            progress = ends.enter_context(Progress(self.kind, "picture", total))
            for group in groups:
                self._read_group(group, decoders, writer, progress)

    def _read_group(
        self, group: Group, decoders: ThreadPoolExecutor, writer: ThreadPoolExecutor, progress: Progress
    ) -> None:
        decoded = Decoded(Counter(job.sha256 for _, shard in group.values() for job in shard.jobs))
        plans: list[_Plan] = []
        try:
            for kind, (reading, shard) in group.items():
                self.attempt(kind, partial(_plan, plans, reading, shard, decoded))
            in_turn = (turn for _, _, turn in merge(*plans, key=lambda one: one[:2]))
            begun = (turn for turn in in_turn if self._has(turn.reading.kind) and self.own.gone is None)
            for turn in decoded_ahead(begun, decoders, len(plans)):
                kind = turn.reading.kind
                if self._has(kind):
                    self.attempt(kind, partial(group[kind][0].take, turn, writer))
                    progress.update(len(turn.jobs) if kind == self.kind else 0)
            for kind, (reading, _) in group.items():
                if self._has(kind):
                    self.attempt(kind, reading.settle)
        finally:
            for kind, (reading, shard) in reversed(group.items()):  # the own one last, as its error ends it
                self.attempt(kind, partial(reading.keep, shard))

    def _has(self, kind: str) -> bool:
        return kind == self.kind or kind in self.others


def _plan(plans: list[_Plan], reading: Reading, shard: Lacking, decoded: "Decoded") -> None:
    """Add the batches of a kind to those of others."""
    shown = reading.shown(shard.jobs)
    assert isinstance(shown, ShownPictures)
    batches = list(reading.batches(shard.jobs))
    last = accumulate((max(job.name for job in batch) for batch in batches), max)
    turns = (Turn(reading, shard, SharedPictures(shown, decoded), batch) for batch in batches)
    plans.append([(name, len(plans), turn) for name, turn in zip(last, turns, strict=True)])


class SharedPictures:
    """Pictures that several kinds are shown, each a copy of its own, which it may draw on."""

    about: ClassVar[Subject] = "picture"

    def __init__(self, shown: ShownPictures, decoded: "Decoded") -> None:
        self._shown, self._decoded = shown, decoded

    def require(self) -> None:
        """As of :class:`pipeline.engine.inputs.Shown`."""
        self._shown.require()

    def load(self, job: Job) -> Any:
        """As of :class:`pipeline.engine.inputs.Shown`."""
        return self._shown.with_labels(job, self._decoded.get(job, self._shown.picture))


class Decoded:
    """Pictures that are decoded once for all that want them, and held until the last of these has its own.

    Where more pixels are held than memory should hold, the picture that has been waiting longest is let go; it is
    decoded once more for who still wants it.

    Args:
        wanted: how often each will be asked for, by SHA-256.
    """

    def __init__(self, wanted: Counter[str]) -> None:
        self._wanted = wanted
        self._held: dict[str, tuple[Future[Image.Image], int]] = {}  # the longest untouched first
        self._pixels = 0
        self._guard = Lock()

    def get(self, job: Job, decode: Callable[[Job], Image.Image]) -> Image.Image:
        """The picture of a job, for one that wants it; raises what `decode` does. Called from several threads."""
        with self._guard:
            self._wanted[job.sha256] -= 1
            last = self._wanted[job.sha256] <= 0
            found, pixels = self._held.pop(job.sha256, (None, 0))
            self._pixels -= pixels
            picture: Future[Image.Image] = Future() if found is None else found
            if not last:
                self._held[job.sha256] = picture, job.width * job.height
                self._pixels += job.width * job.height
                while self._pixels > _HELD_PIXELS:
                    self._pixels -= self._held.pop(next(iter(self._held)))[1]
        if found is None:
            try:
                picture.set_result(decode(job))
            except BaseException as error:
                picture.set_exception(error)
        decoded = picture.result()
        return decoded if found is None and last else decoded.copy()
