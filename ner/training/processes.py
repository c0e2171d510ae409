"""Training in several processes: starting them, and what tells the first from the others.

torch's launcher starts them, transformers' Trainer and accelerate share out batches and average gradients; this module
does the rest. How many there are is the stage's decision.
"""

import os
import signal
import sys
import threading
import time
from datetime import timedelta
from typing import NoReturn


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
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # exported by name

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = PrefixStore("sightread", TCPStore(address, port, is_master=False, wait_for_workers=False))
    if is_first():
        store.set(where, "yes")
    else:
        store.wait([where], timedelta(days=3650))


def wait() -> None:
    """Wait until every process is here; return at once where there is only one."""
    if count() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()
