"""What this process may use of the machine it runs on, and whether that is used up."""

import os

CORES = "SIGHTREAD_CORES"
"""Environment variable: so many cores at most, for a process that shares its machine with others of its kind."""


def cores() -> int:
    """Cores that this process may use: those of its CPU affinity, which a container's cpuset limits as well."""
    if (given := os.environ.get(CORES, "")).isdecimal() and int(given):
        return min(int(given), _allowed())
    return _allowed()


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the machine's or the device's."""
    message = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in message
        or "can't allocate memory" in message
    )
