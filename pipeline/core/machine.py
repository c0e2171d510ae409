"""What this process may use of the machine it runs on."""

import os


def cores() -> int:
    """Cores that this process may use: those of its CPU affinity, which a container's cpuset limits as well."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
