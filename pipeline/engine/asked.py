"""What workers of a cluster are asked for, kind by kind, and what becomes of what they give.

A task is one of the stage's own kind; what others lack in its shard is read along with it. Which tasks are under way,
and what becomes of those whose worker died, is left to :mod:`pipeline.engine.ray`.
"""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from tqdm import tqdm

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.engine.along import Along, WithOthers
from pipeline.engine.outcome import Outcome
from pipeline.engine.plan import Job, Lacking, stored
from pipeline.engine.run import Work
from pipeline.engine.seen import require_unreadable
from pipeline.engine.worker import Answer, Order, Unit
from pipeline.extractors.base import TaughtExtractor, UnavailableError, fingerprint_of
from pipeline.settings.params import ExecutionParams

_LOOKED_AT = 8  # shards at the beginning, for a job that has been read before
_DEADLY = 3  # shards in a row that workers die of with other kinds along, before these are left to their own stages


@dataclass(slots=True)
class Asked:
    """One kind, as a cluster reads it.

    Attributes:
        work: what there is to read.
        order: what workers are told with every shard.
        outcome: what became of it so far.
    """

    work: Work
    order: Order
    outcome: Outcome = field(default_factory=Outcome)
    _sound: list[Job] | None = None  # one that has been read before, once it has been looked for

    @classmethod
    def of(cls, work: Work, section: Mapping[str, Any], execution: ExecutionParams) -> "Asked":
        """A kind by its section of params, with the section `execution`."""
        order = Order(
            work.kind,
            dict(section),
            execution.model_dump(mode="json"),
            os.getcwd(),
            fingerprint_of(work.extractor),
            work.results.url if isinstance(work.results, Parts) else None,
            execution.ray.max_seconds,
        )
        return cls(work, order)

    def unit(self, shard: str, jobs: list[Job], only: list[list[Job]] | None = None) -> Unit:
        """What one task is to read; arguments as of :class:`pipeline.engine.worker.Unit`."""
        work = self.work
        if self._sound is None:
            self._sound = list(islice(stored(work.inputs, work.results, work.key, first=_LOOKED_AT), 1))
        return Unit(shard, jobs, work.inputs.of([*jobs, *self._sound]), self._sound, only or [])

    def keep(self, shard: Lacking, jobs: Sequence[Job], answer: Answer) -> None:
        """Store what a worker has found of some jobs of a shard.

        Raises:
            UserError: the worker's, or it cannot be stored; its node does not see pictures that this machine does.
        """
        shard.results.put_many(self.work.key, answer.values)
        self.outcome.add(answer.outcome)
        if answer.error:
            raise UnavailableError(answer.error) if answer.unavailable else UserError(answer.error)
        for job in jobs:
            if job.key in answer.outcome.unfit:
                why, read = answer.outcome.failures[job.key], partial(self.work.inputs.of([job]).load, job)
                require_unreadable(self.work.kind, job.name, why, answer.node, read)
        if answer.outcome.count:
            self._sound = [job for job in jobs if job.key not in answer.outcome.failures][:1]


class AskedAlong(WithOthers[Asked]):
    """The kinds that are read along on a cluster.

    Args:
        own: the work of the stage's own kind.
        execution: the section `execution`.
        along: what makes the others, as of :class:`pipeline.engine.one_pass.OnePass`.
    """

    def __init__(
        self, own: Work, execution: ExecutionParams, along: Mapping[str, Callable[[], Along | None]] | None = None
    ) -> None:
        super().__init__(own.kind)
        self._deaths = 0  # in a row
        for kind, make in (along or {}).items():
            self.attempt(kind, partial(self._begin, own, execution, make))
        self._begun = dict(self.others)

    def _begin(self, own: Work, execution: ExecutionParams, make: Callable[[], Along | None]) -> None:
        along = make()
        if along is None or isinstance(along.extractor, TaughtExtractor):  # what learns reads where the stage runs
            return
        work = along.work(own)
        if next(work.missing(), None) is not None:
            self.add(along.kind, Asked.of(work, along.section, execution), work.missing())

    def units(self, shards: Mapping[str, Lacking]) -> list[tuple[Order, Unit]]:
        """What a task is to read along: what each kind lacks in its shard."""
        found = []
        for kind, lacks in shards.items():
            if kind in self.others:
                unit = self.attempt(kind, partial(self.others[kind].unit, lacks.shard, lacks.jobs))
                if unit is not None:
                    found.append((self._begun[kind].order, unit))
        return found

    def keep(self, shards: Mapping[str, Lacking], answers: Mapping[str, Answer]) -> None:
        """Store what a task gave of each kind; one with an error is left to its own stage."""
        for kind, answer in answers.items():
            self._deaths = 0
            if kind not in self.others:  # its error has been told
                answer = replace(answer, error="")
            self.attempt(kind, partial(self._begun[kind].keep, shards[kind], shards[kind].jobs, answer))

    def died(self, kinds: Iterable[str], how: str) -> None:
        """Write down that a worker died of a task with these kinds along, which is read again without them."""
        self._deaths += 1
        named = ", ".join(kinds)
        tqdm.write(
            f"{self.kind}: the process that read a shard with {named} along {how}; the shard is read again without",
            sys.stderr,
        )
        if self._deaths >= _DEADLY:
            for kind in list(self.others):
                self.leave(kind, f"workers die of {self._deaths} shards in a row with other kinds along")

    def tell_all(self) -> None:
        """Say what became of each."""
        for kind, asked in self._begun.items():
            if kind in self.others or asked.outcome.count:
                self.tell(kind, asked.outcome)
