"""What the benchmarks share: contestants timed side by side, ratios held to targets, the machine, the report.

A benchmark compares in one run and reports ratios; what is compared with what is each one's own business.
"""

import ctypes
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.core.files import write_json


@dataclass(frozen=True, slots=True)
class Ratio:
    """A measured ratio and what it should reach; `ceiling` says that the target is a most, not a least.

    Without a target it is for information.
    """

    name: str
    value: float
    target: float | None = None
    ceiling: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.ceiling else self.value >= self.target


def synchronize(device: str) -> None:
    """Wait until a GPU has done what it was given; nothing for a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def median_seconds(
    contestants: Mapping[str, Callable[[], object]], rounds: int, *, calls: int = 5, device: str = "cpu"
) -> dict[str, float]:
    """Median time of a call of each contestant: every round gives each of them a turn, in a new random order.

    So other load on the machine slows all of them alike, and a stall does not count. A turn is several consecutive
    calls, so that the caches are not filled by another contestant.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = random.Random(0)
    for number in range(1 + rounds):
        for name in order.sample(list(contestants), len(contestants)):
            synchronize(device)
            begin = time.perf_counter()
            for _ in range(calls):
                contestants[name]()
            synchronize(device)
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - begin) / calls)
    return {name: statistics.median(values) for name, values in times.items()}


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of handing it back to the system, to be faulted in again at the next call.

    A process that runs an encoder is in that state anyway: glibc raises its thresholds when large blocks are freed.
    Elsewhere than on glibc this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, the most it takes


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the figures were measured on."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
    }
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 2)
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def report(
    ratios: Sequence[Ratio], found: Mapping[str, Any], json_file: Path | None, not_measured: Mapping[str, str]
) -> None:
    """Print ratios as a table, and write them to `json_file` where one is asked for.

    The file: ``{"ratios": {name: {"value", "target", "met"}}, "machine": {…}, "not_measured": {name: why}}``.
    """
    width = max(len(name) for name in [*(ratio.name for ratio in ratios), *not_measured])
    print(f"{'ratio':<{width}} {'value':>8} {'target':>8}")
    for ratio in ratios:
        target = "" if ratio.target is None else f"{'≤' if ratio.ceiling else '≥'} {ratio.target:g}"
        verdict = {True: "met", False: "missed", None: ""}[ratio.met]
        print(f"{ratio.name:<{width}} {ratio.value:>8.2f} {target:>8} {verdict}".rstrip())
    for name, reason in not_measured.items():
        print(f"{name:<{width}} {'-':>8} not measured: {reason}")
    print(", ".join(f"{key} {value}" for key, value in found.items()))
    if json_file is not None:
        write_json(
            json_file,
            {
                "ratios": {
                    ratio.name: {"value": ratio.value, "target": ratio.target, "met": ratio.met} for ratio in ratios
                },
                "machine": dict(found),
                "not_measured": dict(not_measured),
            },
        )
