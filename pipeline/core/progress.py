"""How far a stage is, on stderr: a bar on a terminal, elsewhere a line every half minute; and how it began.

What is counted, and what comes of it, is left to the stages and rooms that work.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Self

from tqdm import tqdm

from pipeline.core.machine import working_on

_muted: ContextVar[bool] = ContextVar("_muted", default=False)

EVERY = 30.0
"""Seconds between two signs of life where there is no terminal, whether anything was done meanwhile or not."""


class Progress:
    """Counts what is done, in a `with`; says after the first batch how many there are, on what, how long that took.

    Args:
        what: is being done, as a stage is called.
        unit: of what is counted, in the singular.
        total: how many there are; None where that is not known. Of none, nothing is said.
        initial: so many were done by an earlier run.
        quiet: shows nothing, as all but one of several processes do.
        on: what it is done on; None: on what this process works on.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: int | None = None,
        *,
        initial: int = 0,
        quiet: bool = False,
        on: str | None = None,
    ) -> None:
        self.what, self.unit, self.total, self.done, self._on = what, unit, total, initial, on
        self._quiet = quiet or total == 0 or _muted.get()
        self._started = time.monotonic()
        self._begun = False
        self._ended = threading.Event()
        self._bar = tqdm(total=total, initial=initial, desc=what, unit=unit, disable=True if self._quiet else None)
        self._initial = initial

    def __enter__(self) -> Self:
        if not self._quiet and self._bar.disable:
            threading.Thread(target=self._live, name="progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, where no `with` does."""
        self._ended.set()
        self._bar.close()

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.done += n
        self._bar.update(n)
        if n and not self._begun and not self._quiet:
            self._begun = True
            many = "" if self.total is None else f"{self.total:,} {self.unit}{'s' if self.total != 1 else ''} "
            first = "the first" if n == 1 else f"the first {n:,}"
            self._say(f"{many}on {self._on or working_on()}; {first} took {time.monotonic() - self._started:.1f} s")

    def _live(self) -> None:
        while not self._ended.wait(EVERY):
            seconds = time.monotonic() - self._started
            of = "" if self.total is None else f" of {self.total:,}"
            line = f"{self.done:,}{of} {self.unit}s after {_duration(seconds)}"
            if self.total is not None and self.done > self._initial:
                left = seconds / (self.done - self._initial) * (self.total - self.done)
                line += f", about {_duration(left)} left"
            self._say(line)

    def _say(self, line: str) -> None:
        tqdm.write(f"{self.what}: {line}", file=sys.stderr)
        sys.stderr.flush()


@contextmanager
def muted() -> Iterator[None]:
    """Let no :class:`Progress` that begins within say a word: whoever works in small portions has one over all."""
    token = _muted.set(True)
    try:
        yield
    finally:
        _muted.reset(token)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
