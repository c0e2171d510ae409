"""What a CRF refuses: emissions, labels and masks that do not belong together, in the words of pytorch-crf.

Shapes, types and devices cost nothing to check. Values are only looked at where the caller says that it is cheap: on a
GPU the host would wait for them.
"""

import torch
from torch import Tensor


def check_shapes(n_labels: int, emissions: Tensor, mask: Tensor, labels: Tensor | None) -> None:
    """Check what can be told without looking at a value.

    Args:
        n_labels: how many labels the CRF has.
        emissions: label scores, *Shape:* (batch, length, n_labels).
        mask: True on tokens, False on padding, *Shape:* (batch, length).
        labels: labels' indices, *Shape:* (batch, length), or None.

    Raises:
        ValueError: a shape, a type or a device is not as expected.
    """
    if emissions.dim() != 3:
        raise ValueError(f"emissions must have dimension of 3, got {emissions.dim()}")
    if emissions.shape[2] != n_labels:
        raise ValueError(f"expected last dimension of emissions is {n_labels}, got {emissions.shape[2]}")
    if not emissions.shape[1]:
        raise ValueError("emissions must have at least one position, got 0")
    for name, tensor in (("tags", labels), ("mask", mask)):
        if tensor is None:
            continue
        if tensor.shape != emissions.shape[:2]:
            raise ValueError(
                f"the first two dimensions of emissions and {name} must match, "
                f"got {tuple(emissions.shape[:2])} and {tuple(tensor.shape)}"
            )
        if tensor.device != emissions.device:
            raise ValueError(f"emissions and {name} must be on one device, got {emissions.device} and {tensor.device}")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be of torch.bool, got {mask.dtype}")
    if labels is not None and labels.dtype != torch.int64:
        raise ValueError(f"tags must be of torch.int64, got {labels.dtype}")


def check_values(n_labels: int, mask: Tensor, labels: Tensor | None) -> None:
    """Check a mask and labels of the right shapes, value by value.

    Args:
        n_labels: how many labels the CRF has.
        mask: True on tokens, False on padding, *Shape:* (batch, length).
        labels: labels' indices, any value on padding, *Shape:* (batch, length), or None.

    Raises:
        ValueError: a sequence has no token, padding lies between tokens, or a token's label is out of range.
    """
    if not mask[:, 0].all():
        raise ValueError("mask of the first timestep must all be on")
    if (mask[:, 1:] > mask[:, :-1]).any():
        raise ValueError("mask must be on without a gap, from the first timestep to a sequence's last")
    if labels is not None and ((labels < 0) | (labels >= n_labels)).logical_and_(mask).any():
        raise ValueError(f"expected tags from 0 to {n_labels - 1} where the mask is on")
