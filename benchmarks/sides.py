"""Contestants in separate processes, each in its own environment: started once, then given turns by their parent.

So packages that conflict can be compared in one run, and each has its own peak memory.
What a turn does is each benchmark's own business.
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.core.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn took, and by how much the process's memory had grown at its peak since before its first turn."""

    seconds: float
    peak_bytes: int


class Side:
    """A contestant's process, as its parent sees it; `arguments` are those of ``python -m``."""

    def __init__(self, name: str, python: Path | str, arguments: Sequence[str], threads: int) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [python, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
        )

    def turn(self) -> Turn:
        """Give it a turn and wait for its end.

        Raises:
            UserError: it ended; what it said stands above.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write("turn\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer is missing, too
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: its process ended with status {self._process.wait()}, for the reason above")
        return Turn(**json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def compare(sides: Sequence[Side], rounds: int) -> dict[str, Turn]:
    """Medians of the sides' turns, after one to warm up; every round gives each a turn, in a new random order."""
    turns: dict[str, list[Turn]] = {side.name: [] for side in sides}
    order = random.Random(0)
    with ExitStack() as stack:
        for side in sides:
            stack.enter_context(side)
        for number in range(1 + rounds):
            for side in order.sample(list(sides), len(sides)):
                turn = side.turn()
                if number:
                    turns[side.name].append(turn)
    return {
        name: Turn(statistics.median(turn.seconds for turn in taken), max(turn.peak_bytes for turn in taken))
        for name, taken in turns.items()
    }


def serve(turn: Callable[[], float]) -> None:
    """A side's own end: take turns, each giving its seconds, until the parent has had enough."""
    answers, sys.stdout = sys.stdout, sys.stderr  # for answers alone: packages may print
    before = _resident_bytes()
    for _ in sys.stdin:
        seconds = turn()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "peak_bytes": max(0, peak - before)}), file=answers, flush=True)


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # no Linux: what it held at most so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return pages * os.sysconf("SC_PAGE_SIZE")


def peaks(turns: Mapping[str, Turn]) -> dict[str, str]:
    """The sides' peak memory, to be told with the machine."""
    return {f"peak memory of {name}": f"{turn.peak_bytes / 2**20:,.0f} MiB" for name, turn in turns.items()}
