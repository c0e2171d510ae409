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


@triton.jit
def run_forward(  # type: ignore[no-untyped-def]
    emissions, step, ends, lengths, messages, batch, longest, n_labels, TILE: tl.constexpr
):
    """Messages [2, 2, B, L, K]: of each direction those with and without the position's own emission."""
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


@triton.jit
def run_backward(  # type: ignore[no-untyped-def]
    messages,
    moved,
    step,
    lengths,
    of_emissions,
    of_step,
    of_ends,
    batch,
    longest,
    n_labels,
    TILE: tl.constexpr,
):
    """From the derivative by the messages, `moved`, those by emissions [2, B, L, K], step [2, B, K, K], ends [2, B, K].

    A step's log-sum-exp hands its derivative on in shares that sum to 1: exp(message before + transition - after).
    """
    row, direction = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    label = tl.arange(0, TILE)
    real = label < n_labels
    both_real = real[:, None] & real[None, :]
    tile = label[:, None] * n_labels + label[None, :]
    moves = tl.load(step + direction * n_labels * n_labels + tile, both_real, NOTHING)
    length = tl.load(lengths + row)
    handed_on = tl.zeros([TILE], tl.float64)
    next_before = tl.zeros([TILE], tl.float64)
    of_moves = tl.zeros([TILE, TILE], tl.float64)
    for back in range(length):
        t = length - 1 - back
        position = row * longest + tl.where(direction == 0, t, back)
        place = (direction * 2 * batch * longest + position) * n_labels + label
        after = tl.load(messages + place, real, NOTHING)
        # At the last position nothing is handed on, whatever the shares are of.
        shares = tl.exp(tl.minimum(after[:, None] + moves - next_before[None, :], 0.0)) * handed_on[None, :]
        of_moves += shares
        of_after = tl.load(moved + place, real, 0.0) + tl.sum(shares, axis=1)
        tl.store(of_emissions + (direction * batch * longest + position) * n_labels + label, of_after, real)
        place += batch * longest * n_labels
        next_before = tl.load(messages + place, real, 0.0)
        handed_on = of_after + tl.load(moved + place, real, 0.0)
    sequence = direction * batch + row
    tl.store(of_ends + sequence * n_labels + label, handed_on, real)
    tl.store(of_step + sequence * n_labels * n_labels + tile, of_moves, both_real)


class KernelMessages(torch.autograd.Function):
    """The messages that :func:`ner.crf.recursions.plain_messages` gives, and their derivative; zeros behind the end."""

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, step: Tensor, ends: Tensor, lengths: Tensor) -> Tensor:
        """Messages [2, 2, B, L, K] from emissions [B, L, K], step [2, K, K], ends [2, K] and lengths [B]."""
        batch, length, n_labels = emissions.shape
        emissions, step, ends, lengths = (each.contiguous() for each in (emissions, step, ends, lengths))
        messages = step.new_zeros(2, 2, batch, length, n_labels)
        with torch.cuda.device_of(messages):  # Triton launches on the current device, whatever the tensors lie on
            run_forward[(batch, 2)](
                emissions, step, ends, lengths, messages, batch, length, n_labels, TILE=triton.next_power_of_2(n_labels)
            )
        ctx.save_for_backward(messages, step, lengths)
        ctx.dtype = emissions.dtype
        return messages

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, moved: Tensor) -> tuple[Tensor | None, ...]:
        messages, step, lengths = ctx.saved_tensors
        _, _, batch, length, n_labels = messages.shape
        of_emissions = messages.new_zeros(2, batch, length, n_labels)
        of_step = messages.new_empty(2, batch, n_labels, n_labels)
        of_ends = messages.new_empty(2, batch, n_labels)
        with torch.cuda.device_of(messages):
            run_backward[(batch, 2)](
                messages,
                moved.contiguous(),
                step,
                lengths,
                of_emissions,
                of_step,
                of_ends,
                batch,
                length,
                n_labels,
                TILE=triton.next_power_of_2(n_labels),
            )
        return of_emissions.sum(0).to(ctx.dtype), of_step.sum(1), of_ends.sum(1), None
