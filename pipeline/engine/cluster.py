"""A cluster, for whatever is read there: connecting to it, how many tasks at once, what became of one.

What tasks do is left to :mod:`pipeline.engine.worker`, and to what :mod:`pipeline.engine.in_order` serves.
"""

import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pipeline.core import environments
from pipeline.core.environments import Environment
from pipeline.core.errors import UserError
from pipeline.core.machine import CORES, cores
from pipeline.engine.nodes import require
from pipeline.settings.params import RayExecution

POLL_SECONDS = 1.0
"""Between looks at what has ended; signals are answered in between."""

_AHEAD = 2  # tasks under way or waiting, for each that can run at once
_CONNECT_SECONDS = 10.0
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # the name is of where its default is off; Linux heeds it, too
_ANOTHER = "Version mismatch:"  # as Ray says it, where a driver is not as its cluster
_SAID = ("failed to import on the worker", "No module named 'pipeline")  # by Ray, where it has none of our modules


class Lost(NamedTuple):
    """What became of a task whose worker, or with `node` its node, is gone: how, in words."""

    how: str
    node: bool = False


def most_tasks(ray: Any, settings: RayExecution) -> int:
    """How many tasks are to be under way; nodes come and go."""
    found = ray.cluster_resources()
    slots = found.get("CPU", 0) // settings.num_cpus
    if settings.num_gpus:
        slots = min(slots, found.get("GPU", 0) // settings.num_gpus)
    return max(1, int(slots)) * _AHEAD


def answer_of(ray: Any, reference: Any, what: str, folder: str) -> Any:
    """What a task gave, or :class:`Lost`.

    Args:
        ray: connected.
        reference: the task's.
        what: is read.
        folder: the project's, on every node.

    Raises:
        UserError: as the task has it; the cluster cannot run it.
    """
    from ray import exceptions

    try:
        return ray.get(reference)
    except (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.ObjectLostError) as error:
        return Lost(str(error), node=True)
    except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
        return Lost(_reason(error))
    except (exceptions.RuntimeEnvSetupError, exceptions.TaskUnschedulableError) as error:
        raise UserError(f"{what}: the cluster cannot run a worker: {_line(error)}") from None
    except exceptions.RayTaskError as error:
        if isinstance(error, UserError):
            raise UserError(str(getattr(error, "cause", error))) from None
        if any(said in str(error) for said in _SAID):
            raise UserError(
                f"{what}: a worker has none of Sightread's modules: {_line(error)[-300:]}. Put the project in {folder} "
                "on every node, with the packages of requirements.lock"
            ) from None
        raise


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
