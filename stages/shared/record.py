"""What a stage writes down about its own run, for the report: how long it took, for how much, on which machine.

A record is an out of its stage like any other: DVC keeps it with the results it is about, and brings it back with
them. Nothing but the report depends on it, as no two runs take the same time.
"""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pipeline.core import records
from pipeline.core.machine import cores, gpu_in_use
from pipeline.core.runs import Machine, RunRecord
from stages.shared import paths


@contextmanager
def recorded(stage: str) -> Iterator[dict[str, Any]]:
    """Time the body of a `with` and, where it ends well, write metrics/runs/{stage}.json.

    Yields:
        The other fields of :class:`pipeline.core.runs.RunRecord`, to be filled in.
    """
    started = time.monotonic()
    notes: dict[str, Any] = {}
    yield notes
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    seconds = round(time.monotonic() - started, 3)
    records.write_one(paths.RUNS / f"{stage}.json", RunRecord(stage, seconds, finished, _machine(), **notes))


def _machine() -> Machine:
    return Machine(f"{platform.system()} {platform.machine()}", platform.python_version(), cores(), gpu_in_use())
