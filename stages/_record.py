"""What a stage writes down about its own run, for the report: how long it took, for how much, on which machine.

A record is an out of its stage like any other: DVC keeps it with the results it is about, and brings it back with
them. Nothing but the report depends on it, as no two runs take the same time.
"""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pipeline.core.files import write_json
from stages import paths


@contextmanager
def recorded(stage: str) -> Iterator[dict[str, Any]]:
    """Time the body of a `with` and, where it ends well, write metrics/runs/{stage}.json.

    Yields:
        What else the record shall hold, to be filled in: `items` (how many of `unit` were worked on), and whatever the
        report shows of this stage.
    """
    started = time.monotonic()
    notes: dict[str, Any] = {}
    yield notes
    write_json(
        paths.RUNS / f"{stage}.json",
        {
            "stage": stage,
            "seconds": round(time.monotonic() - started, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            **notes,
        },
    )


def _machine() -> dict[str, Any]:
    torch = sys.modules.get("torch")  # where the stage has not loaded it, it has used no GPU
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_initialized() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu,
    }
