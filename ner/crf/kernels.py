"""The log-domain recursions of a linear chain as Triton kernels: a launch for all steps, one for their derivative.

On a GPU a loop of small operations costs a launch each, and asking for the scores' range makes the host wait. Here a
program runs one sequence in one direction, its messages in registers, in float64 and in the log domain at every step:
exact for any scores, nothing read back. The plain version of the same, and the reference that it is tested against, is
:func:`ner.crf.recursions.plain_messages`; which of the two runs is decided there.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Below any score: what a tile holds beyond the chain's labels has no share in a sum.
NOTHING = tl.constexpr(-1e30)


@triton.jit  # type: ignore[untyped-decorator]
def run_forward(  # type: ignore[no-untyped-def]
    emissions, step, ends, lengths, messages, batch, longest, n_labels, TILE: tl.constexpr
):
    """Write the messages of one sequence in one direction.

        after_t[j] = before_t[j] + e_t[j]
        before_{t+1}[j] = log Σ_i exp(after_t[i] + step[i, j]), the largest term taken out of the sum

    Args:
        emissions: label scores, *Shape:* (batch, longest, n_labels).
        step: transitions from row to column, as each direction takes them, *Shape:* (2, n_labels, n_labels).
        ends: before_1 of each direction, *Shape:* (2, n_labels).
        lengths: the sequences' lengths, *Shape:* (batch,).
        messages: receives each direction's `after` and `before`, *Shape:* (2, 2, batch, longest, n_labels).
        batch, longest, n_labels: the sizes.
        TILE: the least power of 2 that is no less than `n_labels`.
    """
    row, direction = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    label = tl.arange(0, TILE)
    real = label < n_labels
    tile = label[:, None] * n_labels + label[None, :]  # from row to column
    moves = tl.load(step + direction * n_labels * n_labels + tile, real[:, None] & real[None, :], NOTHING)
    before = tl.load(ends + direction * n_labels + label, real, NOTHING)
    length = tl.load(lengths + row)
    for t in range(length):
        position = row * longest + tl.where(direction == 0, t, length - 1 - t)
        emitted = tl.load(emissions + position * n_labels + label, real, 0.0).to(tl.float64)
        after = before + emitted
        place = (direction * 2 * batch * longest + position) * n_labels + label
        tl.store(messages + place, after, real)
        tl.store(messages + batch * longest * n_labels + place, before, real)
        scores = after[:, None] + moves
        top = tl.max(scores, axis=0)
        before = top + tl.log(tl.sum(tl.exp(scores - top[None, :]), axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def run_backward(  # type: ignore[no-untyped-def]
    messages,
    grad_messages,
    step,
    lengths,
    grad_emissions,
    grad_step,
    grad_ends,
    batch,
    longest,
    n_labels,
    TILE: tl.constexpr,
):
    """Write the gradients of one sequence in one direction.

    A step's log-sum-exp passes its gradient back in shares that sum to 1:

        share_t[i, j]      = exp(after_t[i] + step[i, j] - before_{t+1}[j])
        grad_after_t[i]    = grad_messages(after_t)[i] + Σ_j share_t[i, j] · grad_before_{t+1}[j]
        grad_before_t[i]   = grad_messages(before_t)[i] + grad_after_t[i]
        grad_emission_t    = grad_after_t
        grad_step[i, j]    = Σ_t share_t[i, j] · grad_before_{t+1}[j]
        grad_ends          = grad_before_1

    Args:
        messages: what :func:`run_forward` wrote, *Shape:* (2, 2, batch, longest, n_labels).
        grad_messages: gradient of those, *Shape:* (2, 2, batch, longest, n_labels).
        step: transitions from row to column, as each direction takes them, *Shape:* (2, n_labels, n_labels).
        lengths: the sequences' lengths, *Shape:* (batch,).
        grad_emissions: receives each direction's gradient of the emissions, *Shape:* (2, batch, longest, n_labels).
        grad_step: receives each sequence's gradient of `step`, *Shape:* (2, batch, n_labels, n_labels).
        grad_ends: receives each sequence's gradient of `ends`, *Shape:* (2, batch, n_labels).
        batch, longest, n_labels: the sizes.
        TILE: the least power of 2 that is no less than `n_labels`.
    """
    row, direction = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    label = tl.arange(0, TILE)
    real = label < n_labels
    both_real = real[:, None] & real[None, :]
    tile = label[:, None] * n_labels + label[None, :]
    moves = tl.load(step + direction * n_labels * n_labels + tile, both_real, NOTHING)
    length = tl.load(lengths + row)
    grad_before = tl.zeros([TILE], tl.float64)
    next_before = tl.zeros([TILE], tl.float64)
    grad_moves = tl.zeros([TILE, TILE], tl.float64)
    for back in range(length):
        t = length - 1 - back
        position = row * longest + tl.where(direction == 0, t, back)
        place = (direction * 2 * batch * longest + position) * n_labels + label
        after = tl.load(messages + place, real, NOTHING)
        # At the last position grad_before is 0, whatever the shares are.
        shares = tl.exp(tl.minimum(after[:, None] + moves - next_before[None, :], 0.0)) * grad_before[None, :]
        grad_moves += shares
        grad_after = tl.load(grad_messages + place, real, 0.0) + tl.sum(shares, axis=1)
        tl.store(grad_emissions + (direction * batch * longest + position) * n_labels + label, grad_after, real)
        place += batch * longest * n_labels
        next_before = tl.load(messages + place, real, 0.0)
        grad_before = grad_after + tl.load(grad_messages + place, real, 0.0)
    sequence = direction * batch + row
    tl.store(grad_ends + sequence * n_labels + label, grad_before, real)
    tl.store(grad_step + sequence * n_labels * n_labels + tile, grad_moves, both_real)


class KernelMessages(torch.autograd.Function):
    """The messages that :func:`ner.crf.recursions.plain_messages` computes, and their gradients; zeros on padding."""

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, step: Tensor, ends: Tensor, lengths: Tensor) -> Tensor:
        """Launch :func:`run_forward`.

        Args:
            ctx: autograd's context.
            emissions: label scores, *Shape:* (batch, length, n_labels).
            step: transitions as each direction takes them, *Shape:* (2, n_labels, n_labels).
            ends: what each direction begins with, *Shape:* (2, n_labels).
            lengths: the sequences' lengths, *Shape:* (batch,).

        Returns:
            messages, *Shape:* (2, 2, batch, length, n_labels).
        """
        batch, length, n_labels = emissions.shape
        emissions, step, ends, lengths = (each.contiguous() for each in (emissions, step, ends, lengths))
        messages = step.new_zeros(2, 2, batch, length, n_labels)
        # Triton launches on the current device, whatever the tensors lie on.
        with torch.cuda.device_of(messages):  # type: ignore[no-untyped-call]
            run_forward[(batch, 2)](
                emissions, step, ends, lengths, messages, batch, length, n_labels, TILE=triton.next_power_of_2(n_labels)
            )
        ctx.save_for_backward(messages, step, lengths)
        ctx.dtype = emissions.dtype
        return messages

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_messages: Tensor) -> tuple[Tensor | None, ...]:
        """Launch :func:`run_backward`.

        Args:
            ctx: autograd's context.
            grad_messages: gradient of the messages, *Shape:* (2, 2, batch, length, n_labels).

        Returns:
            gradients of emissions, step and ends, of their shapes, and None.
        """
        messages, step, lengths = ctx.saved_tensors
        _, _, batch, length, n_labels = messages.shape
        grad_emissions = messages.new_zeros(2, batch, length, n_labels)
        grad_step = messages.new_empty(2, batch, n_labels, n_labels)
        grad_ends = messages.new_empty(2, batch, n_labels)
        with torch.cuda.device_of(messages):  # type: ignore[no-untyped-call]
            run_backward[(batch, 2)](
                messages,
                grad_messages.contiguous(),
                step,
                lengths,
                grad_emissions,
                grad_step,
                grad_ends,
                batch,
                length,
                n_labels,
                TILE=triton.next_power_of_2(n_labels),
            )
        return grad_emissions.sum(0).to(ctx.dtype), grad_step.sum(1), grad_ends.sum(1), None
