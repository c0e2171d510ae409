"""Tasks of a cluster whose answers are wanted in the order of what they are of: those of `posts`, `images` and `views`.

What a task does, and what becomes of its answer, is theirs. Here is which are under way, and what becomes of one whose
worker or node is lost: it is tried again, as often as params have it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pipeline.core.errors import UserError
from pipeline.engine.cluster import POLL_SECONDS, Lost, answer_of, cluster, most_tasks
from pipeline.settings.params import RayExecution

U = TypeVar("U")

LEAST_BYTES = 16_000_000
"""Of files of posts: what is less is read before a cluster has started."""


def worthwhile(files: Iterable[Path]) -> bool:
    """Whether files of posts are large enough to be read on a cluster."""
    return sum(path.stat().st_size for path in files if path.is_file()) >= LEAST_BYTES


class Tasks(NamedTuple):
    """What tasks of one stage have in common.

    Attributes:
        what: they read, for messages.
        run: what each does: a function of a module.
        folder: the project's, on every node.
        settings: of the cluster; a task takes no GPU.
    """

    what: str
    run: Callable[..., Any]
    folder: str
    settings: RayExecution


class Unit(NamedTuple, Generic[U]):
    """What a task is of.

    Attributes:
        of: what it stands for.
        arguments: of the task; None: it needs none.
        called: what it reads, for messages.
    """

    of: U
    arguments: tuple[Any, ...] | None
    called: str


@dataclass(slots=True)
class _Waiting(Generic[U]):
    unit: Unit[U]
    task: Any
    lost: int = 0


def in_order(units: Iterable[Unit[U]], tasks: Tasks) -> Iterator[tuple[U, Any]]:
    """Yield what each unit stands for, with the answer of its task, None where it needs none.

    The cluster is there from the first unit on that needs a task, and tasks of later ones are under way by then.

    Raises:
        UserError: there is no cluster, or the workers of one unit are lost more often than params have it.
    """
    settings = tasks.settings.model_copy(update={"num_gpus": 0.0})
    waiting = deque[_Waiting[U]]()
    with ExitStack() as stack:
        ray: Any = None
        remote: Any = None  # one for all, as the cluster's head keeps each that is made
        for unit in units:
            if unit.arguments is not None and ray is None:
                ray = stack.enter_context(cluster(settings))
                remote = ray.remote(num_cpus=settings.num_cpus, max_retries=0)(tasks.run)
            waiting.append(_Waiting(unit, None if unit.arguments is None else remote.remote(*unit.arguments)))
            while waiting and (waiting[0].task is None or len(waiting) >= most_tasks(ray, settings)):
                yield _answered(waiting.popleft(), tasks, ray, remote)
        while waiting:
            yield _answered(waiting.popleft(), tasks, ray, remote)


def _answered(one: _Waiting[U], tasks: Tasks, ray: Any, remote: Any) -> tuple[U, Any]:
    while one.task is not None:
        while not ray.wait([one.task], timeout=POLL_SECONDS)[0]:
            pass
        answer = answer_of(ray, one.task, tasks.what, tasks.folder)
        if not isinstance(answer, Lost):
            return one.unit.of, answer
        one.lost += 1
        if one.lost > tasks.settings.retries:
            how = f"went with its node ({answer.how[:200]})" if answer.node else answer.how
            raise UserError(
                f"{tasks.what}: {one.lost} of {one.lost} workers were lost under one shard, {one.unit.called}; the "
                f"last {how}. See that a node has memory enough, that execution.ray.max_seconds is, or raise "
                "execution.ray.retries"
            )
        assert one.unit.arguments is not None
        one.task = remote.remote(*one.unit.arguments)
    return one.unit.of, None
