"""Training in several processes: starting them, and what tells the first from the others.

torch's launcher starts them, transformers' Trainer and accelerate share out batches and average gradients; this module
does the rest. How many there are is the stage's decision.
"""

import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeline.core.errors import UserError
from pipeline.core.folders import VARIABLE

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]  # exported by name

TIMEOUT = 1800.0
"""Seconds that processes wait for one of them, as torch has it."""

_APPEARS_SECONDS = 15.0  # within which a file that one machine makes is seen on others


def relaunch(module: str, n: int) -> NoReturn:
    """Replace this process by torch's launcher, which runs ``python -m module`` in `n` processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    sys.stdout.flush()
    os.execv(sys.executable, [*launcher, "-m", module])  # noqa: S606 - our own module in our own interpreter


def end_with_launcher() -> None:
    """Kill this process when its launcher has ended: torch's, if killed, would leave it training."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def launched() -> bool:
    """Whether this is one of the processes that torch's launcher started."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


def count() -> int:
    """How many processes train together; 1 where no launcher started them."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and messages."""
    return not launched() or int(os.environ["RANK"]) == 0


def let_first_go_ahead(where: str = "ready") -> None:
    """Return once the first process has come here, however long that takes; at once where there is only one.

    Each place in the program that waits so has a name of its own.

    The others wait at the launcher's own store: whatever joins processes has a time-out, which the first would exceed
    while it waits for a lock.
    """
    if count() == 1:
        return
    store = _store()
    if is_first():
        store.set(where, "yes")
    else:
        store.wait([where], timedelta(days=3650))


def require_shared(folder: Path) -> None:
    """See that every process sees the same folder, as those of several machines may not; none waits where one does not.

    Raises:
        UserError: in every process, where one sees another folder under this path, or none.
    """
    if count() == 1:
        return
    store, mark = _store(), ""
    if is_first():
        folder.mkdir(parents=True, exist_ok=True)
        mark = f".shared-{secrets.token_hex(8)}"
        (folder / mark).touch()
        store.set("shared", mark)
    store.wait(["shared"], timedelta(days=3650))
    name = store.get("shared").decode()
    store.set(f"seen {os.environ['RANK']}", f"{int(_appears(folder / name))} {platform.node()}")
    ranks = [f"seen {rank}" for rank in range(count())]
    store.wait(ranks, timedelta(seconds=10 * _APPEARS_SECONDS))
    answers = [store.get(rank).decode().split(" ", 1) for rank in ranks]
    if is_first():
        (folder / mark).unlink()
    blind = sorted({node for seen, node in answers if seen != "1"})
    if blind:
        raise UserError(
            f"train: {', '.join(blind)} sees another {folder} than {answers[0][1]}, or none; a training in several "
            f"processes goes on from checkpoints that all of them see: set {VARIABLE} to a folder that the machines "
            "share"
        )


def _appears(path: Path) -> bool:
    """Whether a file is there, or comes within the time that a network's file system may take to show it."""
    until = time.monotonic() + _APPEARS_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _store() -> "Store":
    """The launcher's own store, with keys of this start of the processes alone."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # exported by name

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"sightread {start}", TCPStore(address, port, is_master=False, wait_for_workers=False))


def join(cpu: bool, timeout: float) -> None:
    """Have the processes found the group in which they exchange gradients; do nothing where there is only one.

    transformers' Trainer takes it as it is; of those that it founds itself, none on CPUs has a limit of ours.

    Args:
        cpu: whether they train on CPUs.
        timeout: seconds after which one that says nothing is lost.
    """
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=cpu, timeout=timedelta(seconds=timeout))


@contextmanager
def together(timeout: float) -> Iterator[None]:
    """What several processes do together ends with one message where one of them is lost.

    Args:
        timeout: as of :func:`join`, for the message.

    Raises:
        UserError: another process has ended, or says nothing.
    """
    try:
        yield
    except RuntimeError as error:
        if count() == 1 or not _is_loss(error):
            raise
        raise UserError(
            f"train: process {os.environ['RANK']} of {count()}, on {platform.node()}, hears nothing of another one, "
            f"which has ended, or has said nothing for {timeout:g} s (execution.ddp_timeout): "
            f"{str(error).splitlines()[0][:300]}. See what its machine and its launcher say; all of them started "
            "again go on after the last whole epoch"
        ) from None


def _is_loss(error: RuntimeError) -> bool:
    """Whether the network of processes says that one of them is away: torch's own errors, and those of gloo's C++."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "/gloo/" in str(error)


def wait() -> None:
    """Wait until every process is here; return at once where there is only one."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
