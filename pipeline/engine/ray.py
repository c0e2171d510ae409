"""The engine `ray`: one task a shard, on a cluster that is there or one of this machine alone.

Ray places tasks, starts workers and says which of them died (:mod:`pipeline.engine.cluster`); what a worker does is in
:mod:`pipeline.engine.worker`. Here is which shards are under way, and what becomes of one whose worker died. It is read
again; where its workers die again, its halves are, down to the picture that they die of, which is a row that says so.
Halves are of whole batches, so that all other rows are those of an undisturbed run. Other kinds are read along with a
shard once; whatever is read again is read without them.
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.environments import Environment
from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.core.parts import Parts
from pipeline.core.progress import Progress
from pipeline.engine import worker
from pipeline.engine.along import Along
from pipeline.engine.asked import Asked, AskedAlong
from pipeline.engine.cluster import POLL_SECONDS, Lost, answer_of, cluster, most_tasks
from pipeline.engine.nodes import Nodes
from pipeline.engine.outcome import Outcome
from pipeline.engine.plan import Job, Lacking
from pipeline.engine.run import Work
from pipeline.settings.params import ExecutionParams, RayExecution

_LOST = 50  # nodes that may be lost under one unit before the cluster is taken to be none
_DEADLY = 8  # pictures in a row that workers die of before the extractor is taken to be broken


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Reads on a cluster.

    Args:
        section: the section of params that names the extractor.
        execution: the section `execution`.
        environment: the separate one that workers run in, None: as the cluster does.
        along: what makes other kinds that are read along, as of :class:`pipeline.engine.one_pass.OnePass`.
    """

    section: Mapping[str, Any]
    execution: ExecutionParams
    environment: Environment | None = None
    along: Mapping[str, Callable[[], Along | None]] = field(default_factory=dict)

    def read(self, work: Work) -> Outcome:
        """As of :class:`pipeline.engine.run.Engine`; a UserError also where there is no cluster, or no ray."""
        own = Asked.of(work, self.section, self.execution)
        if next(work.missing(), None) is None:
            return Outcome()
        settings = self.execution.ray
        along = AskedAlong(work, self.execution, self.along)
        with self.cluster() as ray:
            nodes = None if self.environment is None else Nodes(ray, settings, self.environment, own.order.folder)
            outcome = _Run(ray, settings, own, along, nodes).to_the_end()
        along.tell_all()
        if isinstance(work.results, Parts):
            work.results.refresh()
        return outcome

    def cluster(self) -> AbstractContextManager[Any]:
        """Ray, connected; a UserError as of :func:`cluster`."""
        return cluster(self.execution.ray, self.environment)


@dataclass(slots=True, eq=False)
class _Task:
    """Jobs of a shard that are read together.

    Attributes:
        batches: those to read; None while all that the jobs make are, whatever they are.
        plans: whether it is to say which batches the jobs make.
        along: what other kinds lack in the shard, as long as it is to be read with that.
        deaths: of workers that read it, lost: of nodes.
    """

    shard: Lacking
    along: dict[str, Lacking] = field(default_factory=dict)
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
    settings: RayExecution
    own: Asked
    along: AskedAlong
    nodes: Nodes | None = None
    _todo: deque[_Task] = field(default_factory=deque)
    _flying: dict[Any, _Task] = field(default_factory=dict)
    _dead_in_a_row: int = 0

    def to_the_end(self) -> Outcome:
        """Read all that is missing.

        Raises:
            UserError: as of :meth:`RayEngine.read`.
        """
        work, outcome = self.own.work, self.own.outcome
        takes: dict[str, Any] = {"num_cpus": self.settings.num_cpus, "num_gpus": self.settings.num_gpus}
        if self.nodes is not None:
            self.nodes.look(wait=True)
            takes["runtime_env"] = {"py_executable": self.nodes.python}
        remote = self.ray.remote(**takes, max_retries=0, max_calls=0)
        read, plan = remote(worker.read), remote(worker.planned)
        shards = (_Task(shard, self.along.lacking(shard.number)) for shard in work.missing())
        total = sum(len(shard.jobs) for shard in work.missing())
        with Progress(work.kind, KINDS[work.kind].about, total, on="a cluster") as progress:
            while True:
                while len(self._flying) < most_tasks(self.ray, self.settings):
                    task = self._todo.popleft() if self._todo else next(shards, None)
                    if task is None:
                        break
                    run = plan if task.plans else read
                    unit = self.own.unit(task.shard.shard, task.jobs, task.batches)
                    self._flying[run.remote(self.own.order, unit, *self.along.units(task.along))] = task
                if not self._flying:
                    return outcome
                if self.nodes is not None:
                    self.nodes.look()
                done, _ = self.ray.wait(list(self._flying), timeout=POLL_SECONDS)
                for reference in done:
                    task = self._flying.pop(reference)
                    before = outcome.count + len(outcome.failures)
                    self._settle(task, reference)
                    progress.update(outcome.count + len(outcome.failures) - before)

    def _settle(self, task: _Task, reference: Any) -> None:
        """Store what a task gave, or see to it that its jobs are read by others.

        Raises:
            UserError: as the task has it; the cluster cannot run it.
        """
        kind = self.own.work.kind
        answer = answer_of(self.ray, reference, kind, self.own.order.folder)
        if not isinstance(answer, Lost):
            if task.plans:
                self._split(task, answer)
            else:
                self._keep(task, answer)
        elif answer.node:
            task.lost, task.along = task.lost + 1, {}
            if task.lost > _LOST:
                raise UserError(f"{kind}: {task.lost} nodes were lost under one shard: {answer.how}")
            self._todo.append(task)
        else:
            self._died(task, answer.how)

    def _keep(self, task: _Task, answer: worker.Answer) -> None:
        self.along.keep(task.along, answer.along)
        self.own.keep(task.shard, task.jobs, answer)
        if answer.outcome.count:
            self._dead_in_a_row = 0

    def _died(self, task: _Task, how: str) -> None:
        """See to it that what a worker died of is read again, or found.

        Raises:
            UserError: workers die whatever they read.
        """
        if task.along:  # who knows which kind it was
            self.along.died(task.along, how)
            task.along = {}
            self._todo.append(task)
            return
        task.deaths += 1
        count = 1 if task.batches is None else len(task.batches)
        if count > 1:
            assert task.batches is not None
            half = count // 2
            self._todo += [_Task(task.shard, batches=some) for some in (task.batches[:half], task.batches[half:])]
        elif task.deaths <= self.settings.retries:
            self._todo.append(task)
        elif task.plans:
            raise UserError(
                f"{self.own.work.kind}: a worker dies as it loads the extractor ({how}), {task.deaths} times of "
                f"{task.deaths}; see that a node has memory enough, and that execution.ray.max_seconds is"
            )
        elif task.batches is None:
            self._todo.append(_Task(task.shard, plans=True))
        elif len(task.jobs) > 1:
            self._todo.append(_Task(task.shard, batches=[[job] for job in task.jobs]))
        else:
            self._give_up(task.jobs[0], how)

    def _split(self, task: _Task, batches: list[list[Job]]) -> None:
        """Read the batches that a shard makes in halves."""
        half = -(-len(batches) // 2)
        self._todo += [_Task(task.shard, batches=some) for some in (batches[:half], batches[half:]) if some]

    def _give_up(self, job: Job, how: str) -> None:
        failure = f"the process that read it {how}"
        self.own.outcome.add(Outcome(failures={job.key: failure}, broken=1, last=f"{job.name}: {failure}"))
        self._dead_in_a_row += 1
        if self._dead_in_a_row >= _DEADLY:
            raise UserError(
                f"{self.own.work.kind}: workers die of one {KINDS[self.own.work.kind].about} after another, lastly of "
                f"{self.own.outcome.last}. What was read before is kept; choose another extractor, or see that a node "
                "has memory enough"
            )
