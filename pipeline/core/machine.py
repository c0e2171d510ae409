"""What this process may use of the machine it runs on, what it does use, and whether that is used up."""

import os
import sys

CORES = "SIGHTREAD_CORES"
"""Environment variable: so many cores at most, for a process that shares its machine with others of its kind."""


def cores() -> int:
    """Cores that this process may use: those of its CPU affinity, which a container's cpuset limits as well."""
    if (given := os.environ.get(CORES, "")).isdecimal() and int(given):
        return min(int(given), _allowed())
    return _allowed()


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_in_use() -> str | None:
    """The name of the GPU that this process works on; None where it has not loaded torch, or put nothing on a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    name: str = torch.cuda.get_device_name()
    return name


def working_on() -> str:
    """What this process works on, as people say it."""
    return gpu_in_use() or f"the CPU ({cores()} core{'s' if cores() != 1 else ''})"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the machine's or the device's."""
    message = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in message
        or "can't allocate memory" in message
    )
