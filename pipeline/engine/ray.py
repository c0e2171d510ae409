"""The engine `ray`: one task a shard, on a cluster that is there or one of this machine alone.

Ray places tasks, starts workers and says which of them died (:mod:`pipeline.engine.cluster`); what a worker does is in
:mod:`pipeline.engine.worker`. Here is which shards are under way, and what becomes of one whose worker died. It is read
again; where its workers die again, its halves are, down to the picture that they die of, which is a row that says so.
Halves are of whole batches, so that all other rows are those of an undisturbed run.
"""

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pipeline.core.environments import Environment
from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.core.parts import Parts
from pipeline.core.progress import Progress
from pipeline.engine import worker
from pipeline.engine.cluster import POLL_SECONDS, Lost, answer_of, cluster, most_tasks
from pipeline.engine.nodes import Nodes
from pipeline.engine.outcome import Outcome
from pipeline.engine.plan import Job, Lacking, stored
from pipeline.engine.run import Work
from pipeline.extractors.base import UnavailableError, fingerprint_of
from pipeline.settings.params import ExecutionParams, RayExecution

_LOST = 50  # nodes that may be lost under one unit before the cluster is taken to be none
_LOOKED_AT = 8  # shards at the beginning, for a job that has been read before
_DEADLY = 8  # pictures in a row that workers die of before the extractor is taken to be broken


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Reads on a cluster.

    Args:
        section: the section of params that names the extractor.
        execution: the section `execution`.
        environment: the separate one that workers run in, None: as the cluster does.
    """

    section: Mapping[str, Any]
    execution: ExecutionParams
    environment: Environment | None = None

    def read(self, work: Work) -> Outcome:
        """As of :class:`pipeline.engine.run.Engine`; a UserError also where there is no cluster, or no ray."""
        order = worker.Order(
            work.kind,
            dict(self.section),
            self.execution.model_dump(mode="json"),
            os.getcwd(),
            fingerprint_of(work.extractor),
            work.results.url if isinstance(work.results, Parts) else None,
            self.execution.ray.max_seconds,
        )
        if next(work.missing(), None) is None:
            return Outcome()
        settings = self.execution.ray
        with cluster(settings, self.environment) as ray:
            nodes = None if self.environment is None else Nodes(ray, settings, self.environment, order.folder)
            outcome = _Run(ray, order, settings, work, nodes).to_the_end()
        if isinstance(work.results, Parts):
            work.results.refresh()
        return outcome


@dataclass(slots=True, eq=False)
class _Task:
    """Jobs of a shard that are read together.

    Attributes:
        batches: those to read; None while all that the jobs make are, whatever they are.
        plans: whether it is to say which batches the jobs make.
        deaths: of workers that read it, lost: of nodes.
    """

    shard: Lacking
    batches: list[list[Job]] | None = None
    plans: bool = False
    deaths: int = 0
    lost: int = 0

    @property
    def jobs(self) -> list[Job]:
        return self.shard.jobs if self.batches is None else [job for batch in self.batches for job in batch]


@dataclass(slots=True)
class _Run:
    """One reading on a cluster."""

    ray: Any
    order: worker.Order
    settings: RayExecution
    work: Work
    nodes: Nodes | None = None
    outcome: Outcome = field(default_factory=Outcome)
    _todo: deque[_Task] = field(default_factory=deque)
    _flying: dict[Any, _Task] = field(default_factory=dict)
    _sound: list[Job] = field(default_factory=list)
    _dead_in_a_row: int = 0

    def to_the_end(self) -> Outcome:
        """Read all that is missing.

        Raises:
            UserError: as of :meth:`RayEngine.read`.
        """
        work = self.work
        self._sound = list(islice(stored(work.inputs, work.results, work.key, first=_LOOKED_AT), 1))
        takes: dict[str, Any] = {"num_cpus": self.settings.num_cpus, "num_gpus": self.settings.num_gpus}
        if self.nodes is not None:
            self.nodes.look(wait=True)
            takes["runtime_env"] = {"py_executable": self.nodes.python}
        remote = self.ray.remote(**takes, max_retries=0, max_calls=0)
        read, plan = remote(worker.read), remote(worker.planned)
        shards = (_Task(shard) for shard in self.work.missing())
        total = sum(len(shard.jobs) for shard in self.work.missing())
        with Progress(self.work.kind, KINDS[self.work.kind].about, total, on="a cluster") as progress:
            while True:
                while len(self._flying) < most_tasks(self.ray, self.settings):
                    task = self._todo.popleft() if self._todo else next(shards, None)
                    if task is None:
                        break
                    run = plan if task.plans else read
                    self._flying[run.remote(self.order, self._unit(task))] = task
                if not self._flying:
                    return self.outcome
                if self.nodes is not None:
                    self.nodes.look()
                done, _ = self.ray.wait(list(self._flying), timeout=POLL_SECONDS)
                for reference in done:
                    task = self._flying.pop(reference)
                    before = self.outcome.count + len(self.outcome.failures)
                    self._settle(task, reference)
                    progress.update(self.outcome.count + len(self.outcome.failures) - before)

    def _unit(self, task: _Task) -> worker.Unit:
        shown = self.work.inputs.of([*task.jobs, *self._sound])
        return worker.Unit(task.shard.shard, task.jobs, shown, self._sound, task.batches or [])

    def _settle(self, task: _Task, reference: Any) -> None:
        """Store what a task gave, or see to it that its jobs are read by others.

        Raises:
            UserError: as the task has it; the cluster cannot run it.
        """
        answer = answer_of(self.ray, reference, self.work.kind, self.order.folder)
        if not isinstance(answer, Lost):
            if task.plans:
                self._split(task, answer)
            else:
                self._keep(task, answer)
        elif answer.node:
            task.lost += 1
            if task.lost > _LOST:
                raise UserError(f"{self.work.kind}: {task.lost} nodes were lost under one shard: {answer.how}")
            self._todo.append(task)
        else:
            self._died(task, answer.how)

    def _keep(self, task: _Task, answer: worker.Answer) -> None:
        task.shard.results.put_many(self.work.key, answer.values)
        self.outcome.add(answer.outcome)
        if answer.error:
            raise UnavailableError(answer.error) if answer.unavailable else UserError(answer.error)
        if answer.outcome.count:
            self._dead_in_a_row = 0
            self._sound = [job for job in task.jobs if job.key not in answer.outcome.failures][:1]

    def _died(self, task: _Task, how: str) -> None:
        """See to it that what a worker died of is read again, or found.

        Raises:
            UserError: workers die whatever they read.
        """
        task.deaths += 1
        count = 1 if task.batches is None else len(task.batches)
        if count > 1:
            assert task.batches is not None
            half = count // 2
            self._todo += [_Task(task.shard, task.batches[:half]), _Task(task.shard, task.batches[half:])]
        elif task.deaths <= self.settings.retries:
            self._todo.append(task)
        elif task.plans:
            raise UserError(
                f"{self.work.kind}: a worker dies as it loads the extractor ({how}), {task.deaths} times of "
                f"{task.deaths}; see that a node has memory enough, and that execution.ray.max_seconds is"
            )
        elif task.batches is None:
            self._todo.append(_Task(task.shard, plans=True))
        elif len(task.jobs) > 1:
            self._todo.append(_Task(task.shard, [[job] for job in task.jobs]))
        else:
            self._give_up(task.jobs[0], how)

    def _split(self, task: _Task, batches: list[list[Job]]) -> None:
        """Read the batches that a shard makes in halves."""
        half = -(-len(batches) // 2)
        self._todo += [_Task(task.shard, some) for some in (batches[:half], batches[half:]) if some]

    def _give_up(self, job: Job, how: str) -> None:
        failure = f"the process that read it {how}"
        self.outcome.add(Outcome(failures={job.key: failure}, broken=1, last=f"{job.name}: {failure}"))
        self._dead_in_a_row += 1
        if self._dead_in_a_row >= _DEADLY:
            raise UserError(
                f"{self.work.kind}: workers die of one {KINDS[self.work.kind].about} after another, lastly of "
                f"{self.outcome.last}. What was read before is kept; choose another extractor, or see that a node has "
                "memory enough"
            )
