"""A loss whose gradient is taken at once, so that what it was made from need not stay in memory for the backward pass.

What such a loss is made from, and what it is added to, is left to :mod:`ner.models.base`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class TakenGradient:
    """A loss whose gradient is taken here, and handed to its parameters in the backward pass of :meth:`loss`.

    So it is scaled, accumulated and shared among processes as any other, once, together with that of whatever the loss
    is added to. Only the parameters get a gradient. A second backward pass is an error, as for any loss.

    Args:
        loss: of a graph that is not needed any more, *Shape:* ().
        parameters: what the loss may depend on.
    """

    def __init__(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
        moved = [parameter for parameter in parameters if parameter.requires_grad] if loss.requires_grad else []
        found = torch.autograd.grad(loss, moved, allow_unused=True) if moved else ()
        self._loss = loss.detach() if moved else loss
        self._reached = [parameter for parameter, each in zip(moved, found, strict=True) if each is not None]
        self._gradients = [each for each in found if each is not None]

    def loss(self) -> Tensor:
        """The loss, free of its graph, *Shape:* (); as it came where it has no gradient.

        Where it is asked for after another loss was computed, their sum's backward pass begins with what was taken: the
        other's gradients are added to it as they come, and the model's gradient is not in memory twice.
        """
        return _Taken.apply(self._loss, self._gradients, *self._reached) if self._reached else self._loss


def gradient_taken(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The :meth:`~TakenGradient.loss` of a :class:`TakenGradient`, at once."""
    return TakenGradient(loss, parameters).loss()


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradient of this loss was handed on before; compute the loss again")
        gradients, ctx.gradients = ctx.gradients[::-1], None
        scaled = []
        while gradients:  # each goes as its successor comes, so that one alone is in memory twice
            scaled.append(gradients.pop() * grad_loss)
        return None, None, *scaled
