"""Keeps a process that computes batches of changing sizes from growing: what the C library holds back, and oneDNN.

glibc serves ever larger blocks from its heap once some were freed, and batches of changing sizes leave holes in it that
it does not return by itself. oneDNN keeps a compiled kernel for each of the last 1,024 shapes, some hundred kilobytes
each, though hardly a shape comes again in the next batch.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache

_KERNELS = 64  # more than one batch needs: layers share them


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's own, where this process has it."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None


def return_freed() -> None:
    """Return freed memory to the system, between batches; without glibc nothing happens.

    The next batch takes longer, as its memory is faulted in again: not for every batch.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def keep_few_kernels() -> None:
    """Bound oneDNN's cache of kernels, before its first use in this process; a user's own bound stays."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(_KERNELS))
