"""The engine `ray`: one task a shard, on a cluster that is there or one of this machine alone.

Ray places tasks, starts workers and says which of them died; what a worker does is in :mod:`pipeline.engine.worker`.
Here is what a cluster adds: which shards are under way, and what becomes of one whose worker died. It is read again;
where its workers die again, its halves are, down to the picture that they die of, which is a row that says so. Halves
are of whole batches, so that all other rows are those of an undisturbed run. Other kinds are read along with a shard
once; whatever is read again is read without them.
"""

import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline.core import environments
from pipeline.core.environments import Environment
from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.core.machine import CORES, cores
from pipeline.core.parts import Parts
from pipeline.core.progress import Progress
from pipeline.engine import worker
from pipeline.engine.along import Along
from pipeline.engine.asked import Asked, AskedAlong
from pipeline.engine.nodes import Nodes, require
from pipeline.engine.outcome import Outcome
from pipeline.engine.plan import Job, Lacking
from pipeline.engine.run import Work
from pipeline.settings.params import ExecutionParams, RayExecution

_AHEAD = 2  # tasks under way or waiting, for each that can run at once
_LOST = 50  # nodes that may be lost under one unit before the cluster is taken to be none
_DEADLY = 8  # pictures in a row that workers die of before the extractor is taken to be broken
_POLL_SECONDS = 1.0  # between looks at what has ended; signals are answered in between
_CONNECT_SECONDS = 10.0
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # the name is of where its default is off; Linux heeds it, too
_ANOTHER = "Version mismatch:"  # as Ray says it, where a driver is not as its cluster
_SAID = "failed to import on the worker"  # by Ray, where a worker has none of our modules


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
                while len(self._flying) < self._most():
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
                done, _ = self.ray.wait(list(self._flying), timeout=_POLL_SECONDS)
                for reference in done:
                    task = self._flying.pop(reference)
                    before = outcome.count + len(outcome.failures)
                    self._settle(task, reference)
                    progress.update(outcome.count + len(outcome.failures) - before)

    def _most(self) -> int:
        """How many tasks are to be under way; nodes come and go."""
        found = self.ray.cluster_resources()
        slots = found.get("CPU", 0) // self.settings.num_cpus
        if self.settings.num_gpus:
            slots = min(slots, found.get("GPU", 0) // self.settings.num_gpus)
        return max(1, int(slots)) * _AHEAD

    def _settle(self, task: _Task, reference: Any) -> None:
        """Store what a task gave, or see to it that its jobs are read by others.

        Raises:
            UserError: as the task has it; the cluster cannot run it.
        """
        from ray import exceptions

        kind = self.own.work.kind
        lost = (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.ObjectLostError)
        try:
            answer = self.ray.get(reference)
        except lost as error:
            task.lost, task.along = task.lost + 1, {}
            if task.lost > _LOST:
                raise UserError(f"{kind}: {task.lost} nodes were lost under one shard: {error}") from None
            self._todo.append(task)
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
            self._died(task, _reason(error))
        except (exceptions.RuntimeEnvSetupError, exceptions.TaskUnschedulableError) as error:
            raise UserError(f"{kind}: the cluster cannot run a worker: {_line(error)}") from None
        except exceptions.RayTaskError as error:
            if isinstance(error, UserError):
                raise UserError(str(getattr(error, "cause", error))) from None
            if _SAID in str(error):
                raise UserError(
                    f"{kind}: a worker has none of Sightread's modules: {_line(error)[-300:]}. Put the "
                    f"project in {self.own.order.folder} on every node, with the packages of requirements.lock"
                ) from None
            raise
        else:
            if task.plans:
                self._split(task, answer)
            else:
                self._keep(task, answer)

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


def _reason(error: BaseException) -> str:
    if type(error).__name__ == "OutOfMemoryError":
        return "was ended, as its node was out of memory"
    return "has ended without a word, or made no progress for execution.ray.max_seconds"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextmanager
def cluster(settings: RayExecution, environment: Environment | None = None) -> Iterator[Any]:
    """Ray, connected: to the cluster that params or ``RAY_ADDRESS`` name, or to one of this machine, which ends then.

    Args:
        settings: which cluster, and what a worker takes.
        environment: the separate one that workers run in.

    Raises:
        UserError: ray is not installed, the cluster cannot be reached, or has another Ray or Python.
    """
    address = settings.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:  # what Ray is told before it is imported: to listen on loopback alone, and to whom
        os.environ |= {_CLUSTERS: "0", "RAY_AUTH_MODE": "token"}
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray takes up but one in a process' life
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"execution.engine: ray: it is not installed here ({error}); {environments.getting('ray')}"
        ) from None
    _require_reachable(address)
    folder = None if address else tempfile.mkdtemp(prefix="ray-")
    options: dict[str, Any] = {"address": address or "local"}
    if not address:
        options |= {"num_cpus": cores(), "include_dashboard": False, "_temp_dir": folder}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        try:
            options["runtime_env"] = {"env_vars": _variables(settings, environment)}
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            if _ANOTHER in str(error):
                raise UserError(
                    f"execution.ray.address: {address}: all are to have the same Ray and Python, to the patch: "
                    f"{_line(error).partition(_ANOTHER)[2].strip()[:500]}"
                ) from None
            which = "no cluster starts on this machine" if address is None else f"{address}: no cluster there"
            raise UserError(f"execution.ray.address: {which}: {_line(error)[:300]}") from None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put one of its own there
        require(ray, settings, address)
        yield ray
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _require_reachable(address: str | None) -> None:
    """See that something listens at the address of a cluster, before Ray tries to reach it for minutes.

    Raises:
        UserError: nothing does.
    """
    host, _, port = (address or "").rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"execution.ray.address: {address}: no cluster there ({error}); expected HOST:PORT of its head, or null "
            "for one of this machine"
        ) from None


def _variables(settings: RayExecution, environment: Environment | None) -> dict[str, str]:
    """Of the workers' environment; a secret is none of them: nodes have their own."""
    where = {} if environment is None else {environments.VARIABLE: str(environment.folder.parent)}
    return {
        **where,
        "PYTHONPATH": os.getcwd(),
        "MALLOC_ARENA_MAX": "2",  # else memory grows by a third
        "OMP_NUM_THREADS": str(settings.num_cpus),
        CORES: str(settings.num_cpus),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
