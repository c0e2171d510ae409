"""Dropout whose random numbers cost little on a CPU: 16 bits per element, four elements per draw of numpy's SFC64.

torch draws each element by itself, which takes as long as a sixth of a small encoder's matrix products. Other devices
use torch's own dropout.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_VALUES = 2**16  # what 16 random bits can be


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, p: float) -> Tensor:
        n_dropped = round(p * _VALUES)
        seed = int(torch.empty((), dtype=torch.int64).random_())  # seeded by torch's generator, which checkpoints save
        bits = torch.from_numpy(np.random.SFC64(seed).random_raw(-(-values.numel() // 4)).view(np.int16))
        # Compared as floats: torch's loops over booleans are many times slower.
        kept = bits[: values.numel()].view(values.shape).float().ge_(n_dropped - _VALUES // 2)
        kept = kept.mul_(_VALUES / (_VALUES - n_dropped)).to(values.dtype)
        ctx.save_for_backward(kept)
        return values * kept

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor, None]:
        return grad_values * ctx.saved_tensors[0], None


def dropout(values: Tensor, p: float, training: bool = True) -> Tensor:
    """Zeroes each element with probability p, and scales the others by 1 / (1 - p).

    Args:
        values: of any shape.
        p: the probability, on a CPU to the nearest 1/65,536.
        training: False leaves everything as it is.

    Returns:
        a tensor of the same shape.
    """
    if not training or p == 0.0 or p == 1.0 or values.device.type != "cpu":
        return nn.functional.dropout(values, p, training)
    return _Dropout.apply(values, p)


class Dropout(nn.Dropout):
    """:func:`dropout` as a module."""

    def forward(self, values: Tensor) -> Tensor:
        return dropout(values, self.p, self.training)


def replace_dropouts(model: nn.Module) -> None:
    """Replace every torch.nn.Dropout of a model by :class:`Dropout`."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
