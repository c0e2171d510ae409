"""Stops a training whose numbers are not finite: at the step whose loss is not, before such weights are saved.

What such a training leaves is decided by :mod:`ner.training.run`: its checkpoints were saved before, and are sound.
"""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pipeline.core.errors import UserError

_LOOKED_AT = 16  # steps between two looks on a GPU, which must wait for each


class NotFinite(Exception):
    """A loss, or a weight, that is not finite.

    Attributes:
        step: the optimizer's step, from 1.
        rate: the learning rate of that step.
        what: the loss, or the weight's name.
    """

    def __init__(self, step: int, rate: float, what: str) -> None:
        super().__init__(f"{what} at step {step}, learning rate {rate:g}")
        self.step, self.rate, self.what = step, rate, what


class FiniteLosses:
    """Looks at every step's loss: on a CPU at once, on a GPU some steps later and by the end of the epoch."""

    def __init__(self) -> None:
        self._noted: list[tuple[int, float, Tensor]] = []

    def note(self, loss: Tensor, step: int, rate: float) -> None:
        """Take down a step's loss, *Shape:* ().

        Raises:
            NotFinite: it, or one before it, is not finite.
        """
        self._noted.append((step, rate, loss.detach()))
        if loss.device.type == "cpu" or len(self._noted) >= _LOOKED_AT:
            self.check()

    def check(self) -> None:
        """Look at all that was noted.

        Raises:
            NotFinite: for the first loss that is not finite.
        """
        if not self._noted:
            return
        values = torch.stack([loss for _, _, loss in self._noted]).tolist()
        noted, self._noted = self._noted, []
        for (step, rate, _), value in zip(noted, values, strict=True):
            if not math.isfinite(value):
                raise NotFinite(step, rate, f"the loss is {value}")


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first floating-point tensor that holds a NaN or an infinity."""
    return next(
        (name for name, tensor in tensors if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())),
        None,
    )


def require_finite(weights: Mapping[str, Tensor]) -> None:
    """Check weights that are about to be saved as a tagger.

    Raises:
        UserError: one is not finite.
    """
    if (name := not_finite(weights.items())) is not None:
        raise UserError(
            f"train: the weight {name} is not finite (NaN or infinite) at the end of the training, so no tagger is "
            "saved; lower train.learning_rate, or train.max_grad_norm"
        )
