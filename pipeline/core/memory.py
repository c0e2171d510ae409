"""Keeps a process that computes batches of changing sizes from growing: oneDNN, which torch has matrices multiplied by.

torch and oneDNN each keep what was prepared for the last 1,024 shapes, up to a megabyte apiece, though hardly a shape
comes again in the next batch. As these pieces outlive the batches between which they lie, the memory of such a batch
cannot be used for a larger one, either. A training in bfloat16 whose batches held 1,000 to 3,500 sub-tokens grew to
twice its size within an epoch.
"""

import os

_SHAPES = "16"  # more than a layer has: the layers of an encoder share theirs


def keep_few_kernels() -> None:
    """Bound both caches, before their first use in this process; a user's own bounds stay."""
    for cache in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):  # torch's, oneDNN's
        os.environ.setdefault(cache, _SHAPES)
