"""Which nodes of a cluster can have workers: by what they hold, and by the separate environment that workers run in.

Ray starts a worker whose Python is not there, or is another, over and over, and its driver hears nothing. So each node
is asked first, by a task in the Python that the cluster itself runs in.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.environments import Environment
from pipeline.core.errors import UserError
from pipeline.settings.params import RayExecution

_ASKED = 3  # times a node is asked that gives no answer
_START_SECONDS = 120.0  # in which a Python is to have started, on a node that has other work
_MODULE = "pipeline.engine.worker"
_SAYS = f"import platform, ray, {_MODULE}; print(platform.python_version(), ray.__version__)"


class Asked(NamedTuple):
    """What a node is asked: whether a Python there is one that workers can run in.

    Attributes:
        python: the program.
        folder: the project's.
        versions: of Python and Ray, as the driver has them.
        command: builds the environment.
    """

    python: str
    folder: str
    versions: str
    command: str


def answer(asked: Asked) -> str:
    """Why workers cannot run on this node in the Python asked for, or nothing."""
    here = f"node {platform.node()}"
    if not Path(asked.python).exists():
        return f"{here} has no {asked.python}; run there, in {asked.folder}: {asked.command}"
    settings = {**os.environ, "PYTHONPATH": asked.folder}
    folder = asked.folder if Path(asked.folder).is_dir() else None
    try:
        done = subprocess.run(
            [asked.python, "-W", "ignore", "-c", _SAYS],
            cwd=folder,
            env=settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_START_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{here}: {asked.python} does not run: {error}"
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"it ends with status {done.returncode}"])[-1]
        return (
            f"{here}: no worker can run in {asked.python}: {why[:300]}; the project is to be in {asked.folder}, the "
            f"environment complete; run there: {asked.command}"
        )
    found = done.stdout.strip()
    if found != asked.versions:
        names = [" and Ray ".join(versions.split()) for versions in (found, asked.versions)]
        return (
            f"{here}: {asked.python} is Python {names[0]}, the driver's is Python {names[1]}; all are to be the "
            f"same, so build it with the same Python: {asked.command}"
        )
    return ""


class Nodes:
    """The nodes of a cluster that workers run on, asked once each, those too that come later.

    Args:
        ray: connected.
        settings: what a worker takes.
        environment: that workers run in.
        folder: the project's, on every node.
    """

    def __init__(self, ray: Any, settings: RayExecution, environment: Environment, folder: str) -> None:
        self._ray, self._settings = ray, settings
        versions = f"{platform.python_version()} {ray.__version__}"
        self._asked = Asked(str(environment.python), folder, versions, environment.ray_command)
        self._flying: dict[Any, str] = {}
        self._count: dict[str, int] = {}  # of the times that a node was asked
        self._sound: set[str] = set()

    @property
    def python(self) -> str:
        """The program that workers run in."""
        return self._asked.python

    def look(self, wait: bool = False) -> None:
        """Ask the nodes that are new, and hear those that have answered; with `wait`, all that are there.

        Raises:
            UserError: a node cannot run workers.
        """
        from ray.exceptions import RayError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        while True:
            pending = {*self._flying.values(), *self._sound}
            for node in self._ray.nodes():
                name = node["NodeID"]
                if name in pending or not node["Alive"] or not holds(node["Resources"], self._settings):
                    continue
                self._count[name] = self._count.get(name, 0) + 1
                if self._count[name] > _ASKED:
                    raise UserError(f"node {node['NodeManagerHostname']} runs no task: {_ASKED} of {_ASKED} have died")
                there = NodeAffinitySchedulingStrategy(node_id=name, soft=False)
                task = self._ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(answer)
                self._flying[task.remote(self._asked)] = name
            if not self._flying:
                return
            done, _ = self._ray.wait(list(self._flying), timeout=1.0 if wait else 0)
            for reference in done:
                name = self._flying.pop(reference)
                try:
                    problem = self._ray.get(reference)
                except RayError as error:
                    if hasattr(error, "cause"):  # raised by the task itself
                        raise
                    continue  # it was lost, with its node or without; one that is there is asked again
                if problem:
                    raise UserError(f"execution.engine: ray: {problem}")
                self._sound.add(name)
            if not wait:
                return


def holds(resources: dict[str, float], settings: RayExecution) -> bool:
    """Whether a node with these resources has what a worker takes."""
    wanted = {"CPU": settings.num_cpus, "GPU": settings.num_gpus}
    return all(resources.get(name, 0) >= amount for name, amount in wanted.items())


def require(ray: Any, settings: RayExecution, address: str | None) -> None:
    """See that some node has what a worker takes; of a cluster that grows, a node may come that has.

    Raises:
        UserError: this machine has not.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(holds(node, settings) for node in nodes):
        return
    found = "; ".join(f"CPU {node.get('CPU', 0):g}, GPU {node.get('GPU', 0):g}" for node in nodes)
    message = (
        f"execution.ray: a worker takes CPU {settings.num_cpus}, GPU {settings.num_gpus:g} (num_cpus, num_gpus), and "
        f"no node has that ({found})"
    )
    if address is None:
        raise UserError(message)
    print(f"{message}; waiting for one", file=sys.stderr)
