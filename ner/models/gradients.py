"""A loss whose gradient is taken at once, so that what it was made from need not stay in memory for the backward pass.

What such a loss is made from, and what it is added to, is left to :mod:`ner.models.base`.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def gradient_taken(loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
    """The same loss, free of its graph: the backward pass hands its parameters the gradient that is computed here.

    So it is scaled, accumulated and shared among processes as any other, once, together with that of whatever the loss
    is added to. Only the parameters get a gradient. A second backward pass is an error, as for any loss.

    Args:
        loss: of a graph that is not needed any more, *Shape:* ().
        parameters: what the loss may depend on.

    Returns:
        the loss, *Shape:* (); as it came where it has no gradient.
    """
    if not loss.requires_grad:
        return loss
    moved = [parameter for parameter in parameters if parameter.requires_grad]
    found = torch.autograd.grad(loss, moved, allow_unused=True)
    reached = [parameter for parameter, gradient in zip(moved, found, strict=True) if gradient is not None]
    gradients = [gradient for gradient in found if gradient is not None]
    return _Taken.apply(loss.detach(), gradients, *reached)


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
