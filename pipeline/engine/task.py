"""What any task of a cluster does where it runs: go to the project's folder, and be ended where it hangs."""

import os
import platform
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.core.errors import UserError


def enter(folder: str) -> None:
    """Go to the project's folder, on a node; raises UserError where it is not there."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise UserError(
            f"node {platform.node()} has no folder {folder} ({error.strerror}); put the project there on every node: "
            "on a file system that they share, or in the image that they run"
        ) from None


@contextmanager
def timed(seconds: float) -> Iterator[Callable[[], None]]:
    """Have the system end this process where it makes no progress for so long, whatever it does; it is killed as by a
    crash, as a library that hangs lets no Python run. What is given is to be called at each progress."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def start() -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    start()
    try:
        yield start
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
