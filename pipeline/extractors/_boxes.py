"""Boxes of object tags: clipping them to the picture, and leaving out those that others cover.

Where boxes and scores come from is each detector's business.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.core.records import Box, ObjectTag

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def tag(label: str, score: float, box: Sequence[float], size: tuple[int, int]) -> ObjectTag:
    """A tag whose box lies in a picture of `size` (height, width).

    Rounding keeps the noise of float arithmetic, which varies with the batch, out of the record.
    """
    height, width = size
    x0, y0, x1, y1 = box
    clipped: Box = (_within(x0, width), _within(y0, height), _within(x1, width), _within(y1, height))
    return ObjectTag(label, None, round(score, 4), clipped)


def best(tags: Iterable[ObjectTag], most: int) -> list[ObjectTag]:
    """The `most` best tags, best first."""
    return sorted(tags, key=lambda one: (-(one.score or 0.0), one.label, one.box))[:most]


def _within(value: float, limit: int) -> float:
    """A coordinate in pixels, clipped to the picture, to a tenth."""
    return round(min(max(value, 0.0), float(limit)), 1)


def suppress(boxes: "NDArray[np.float32]", scores: "NDArray[np.float32]", limit: float) -> list[int]:
    """Greedy non-maximum suppression: the best box, then the best of those that overlap none kept by more than `limit`.

    Args:
        boxes: shape ``(n, 4)``, as ``x0, y0, x1, y1``.
        scores: shape ``(n,)``.
        limit: intersection over union.

    Returns:
        Indices of what is kept, best first.
    """
    import numpy as np

    areas = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(int(first))
        upper = np.maximum(boxes[first, :2], boxes[left, :2])
        lower = np.minimum(boxes[first, 2:], boxes[left, 2:])
        shared = (lower - upper).clip(min=0).prod(axis=1)
        union = areas[first] + areas[left] - shared
        left = left[shared <= limit * union]
    return kept
