"""Boxes of object tags: clipping them to the picture, and leaving out those that others cover."""

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
    return ObjectTag(label, None, round(score, 4), clipped(box, size))


def clipped(box: Sequence[float], size: tuple[int, int]) -> Box:
    """A box ``x0, y0, x1, y1`` in pixels, clipped to a picture of `size` (height, width), to a tenth."""
    height, width = size
    x0, y0, x1, y1 = box
    return (_within(x0, width), _within(y0, height), _within(x1, width), _within(y1, height))


def best(tags: Iterable[ObjectTag], most: int) -> list[ObjectTag]:
    """The `most` best tags, best first."""
    return sorted(tags, key=lambda one: (-(one.score or 0.0), one.label, one.box))[:most]


def _within(value: float, limit: int) -> float:
    """A coordinate in pixels, clipped to the picture, to a tenth."""
    return round(min(max(value, 0.0), float(limit)), 1)


def suppress(
    boxes: "NDArray[np.float32]", scores: "NDArray[np.float32]", limit: float, labels: "NDArray[np.int64] | None" = None
) -> list[int]:
    """Greedy non-maximum suppression: the best box, then the best of those that overlap none kept by more than `limit`.

    Args:
        boxes: corners in pixels as ``x0, y0, x1, y1``, *Shape:* (n, 4).
        scores: above 0, *Shape:* (n,). A box scored 0 is left out.
        limit: intersection over union, from 0 to 1.
        labels: classes, *Shape:* (n,); boxes of different classes do not suppress each other. None: all boxes do.

    Returns:
        Indices of the boxes that are kept, best first.
    """
    import cv2
    import numpy as np

    rectangles = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    if labels is None:
        kept = cv2.dnn.NMSBoxes(rectangles, scores.tolist(), 0.0, limit)
    else:
        kept = cv2.dnn.NMSBoxesBatched(rectangles, scores.tolist(), labels.tolist(), 0.0, limit)
    return sorted((int(index) for index in kept), key=lambda index: -scores[index])
