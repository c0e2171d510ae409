"""The forward and backward recursions of a linear chain, and their exact derivatives, as plain functions of tensors.

Both directions run in one loop over positions, in float64 and in the linear domain where the scores' range allows it
(nearly always), else, and on a GPU, in the log domain. Autograd meets them in :mod:`ner.crf.autograd`; what the scores
mean and which transitions are allowed is left to :mod:`ner.crf.chain`. With e for emissions, A for transitions, s for
start and z for stop scores, and sequences of n tokens:

    forward_1[j]  = s[j] + e_1[j]         forward_t[j] = e_t[j] + log Σ_i exp(forward_{t-1}[i] + A[i, j])
    future_n[i]   = z[i]                  future_t[i]  = log Σ_j exp(A[i, j] + backward_{t+1}[j])
    backward_t[i] = future_t[i] + e_t[i]  log Z        = log Σ_j exp(forward_n[j] + z[j])
    P(y_t = k | x) = exp(forward_t[k] + future_t[k] - log Z)
"""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# exp() of float64 underflows below about -708; what is left over guards sums of many small terms.
EXPONENT_BUDGET = 650.0
# Keeps divisions defined where nothing is possible, which is only behind a sequence's end.
TINY = 1e-300
# Stands for -inf where derivatives are taken by autograd: far below any score, yet free of inf - inf.
IMPOSSIBLE = -1e30
# Log-domain messages come from ner.crf.kernels on a GPU with Triton, the C compiler that it calls and Python's headers;
# elsewhere from plain_messages.
_COMPILER = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
_HEADERS = Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").exists()
KERNEL_DEVICES = frozenset({"cuda"} if importlib.util.find_spec("triton") and _COMPILER and _HEADERS else ())
MAX_KERNEL_LABELS = 128  # more do not fit a program's registers, and take minutes to compile


class Chain(NamedTuple):
    """A batch of chains. Excluded transitions are -inf; emissions behind a sequence's end may be anything.

    Emissions may come in float32, which saves passes over them; whatever is computed of them is float64.
    """

    emissions: Tensor
    """float32 or float64, *Shape:* (batch, length, n_labels)."""
    transitions: Tensor
    """float64, from row to column, *Shape:* (n_labels, n_labels)."""
    start: Tensor
    """float64, *Shape:* (n_labels,)."""
    stop: Tensor
    """float64, *Shape:* (n_labels,)."""
    lengths: Tensor
    """int64, each at least 1, *Shape:* (batch,)."""


@dataclass(frozen=True, slots=True)
class ScaledMessages:
    """Forward and backward messages of exponentiated scores, rescaled now and then; the batch last, for speed.

    `forward` includes the position's own emission, `future` does not: their product, normalised, is the marginals.
    Their scales have no meaning, but are such that ``forward[t] = (step[0] @ forward[t-1]) * factors[0, t]``. No
    product of two messages at a position underflows.
    """

    forward: Tensor
    """*Shape:* (length, n_labels, batch)."""
    future: Tensor
    """*Shape:* (length, n_labels, batch)."""
    factors: Tensor
    """exponentiated emissions over scales, direction 1 in its own order, *Shape:* (2, length, n_labels, batch)."""
    step: Tensor
    """exponentiated transitions, [0] into rows from columns, [1] the transpose, *Shape:* (2, n_labels, n_labels)."""
    lengths: Tensor | None
    """*Shape:* (batch,); None where all have the full length."""
    log_partition: Tensor
    """*Shape:* (batch,)."""


def steps_to_mix(allowed: Tensor) -> int | None:
    """The least n such that every label reaches every label in exactly n allowed transitions (None: there is none).

    It bounds how far below the likeliest label's message any other's can fall, hence when scaling is safe.

    Args:
        allowed: which transitions may occur, bool, *Shape:* (n_labels, n_labels).
    """
    step = allowed.double()
    reached = step
    for n in range(1, 2 * len(step) + 1):
        if bool((reached > 0).all()):
            return n
        reached = (reached @ step > 0).double()
    return None


def scaled_messages(chain: Chain, mixing: int | None) -> ScaledMessages | None:
    """Run both recursions in the linear domain, or return None where the scores' range forbids it, and on a GPU.

    Let E and T be the ranges of a position's emissions and of the chain's own scores, n `mixing`. Between two
    rescalings, over p positions, a message shrinks by at most exp(-p·(T + E·(n - 1)/n)), as in n steps the likeliest
    label is left and the position's best emission reached, and by exp(-(T + E)) for the ends and a rest of less than n
    steps; an allowed label's message lies at most a factor exp(-n·(T + E)) below the largest. A product of two such
    messages must fit float64.

    `mixing` is what :func:`steps_to_mix` gives.
    """
    # To look at the scores' range would make a GPU wait.
    if mixing is None or chain.emissions.device.type != "cpu":
        return None
    batch, length, n_labels = chain.emissions.shape
    factors = chain.transitions.new_empty(2, length, n_labels, batch)
    emissions = factors[0].copy_(chain.emissions.permute(1, 2, 0))
    lengths = chain.lengths if int(chain.lengths.min()) < length else None
    if lengths is not None:
        emissions.masked_fill_((torch.arange(length)[:, None] >= lengths).unsqueeze(1), 0.0)
    top = emissions.amax(1, keepdim=True)  # (length, 1, batch)
    emitted = float((top - emissions.amin(1, keepdim=True)).amax())
    scores = torch.cat([chain.transitions, chain.start[None], chain.stop[None]])
    peak = float(scores.amax())
    moved = peak - float(scores.nan_to_num(nan=torch.nan, posinf=torch.inf, neginf=torch.inf).amin())
    shrinkage = max(moved + emitted * (mixing - 1) / mixing, 1e-9)
    period = (EXPONENT_BUDGET / 2 - (mixing + 1) * (moved + emitted)) / shrinkage
    # `not >=` also sends NaN and infinite scores to the log domain, which passes them on honestly.
    if not period >= 1:
        return None
    period = int(min(period, 64))

    emissions.sub_(top).exp_()
    reverse(factors[0], lengths, out=factors[1])
    scores = scores.sub_(peak).exp_()
    step = torch.stack([scores[:n_labels].T, scores[:n_labels]])

    def advance(t: int, before: Tensor, after: Tensor, factor: Tensor) -> None:
        torch.mul(before, factor, out=after)
        if t and t % period == 0:
            scale = after.amax(1, keepdim=True).clamp_min_(TINY)
            after.div_(scale)
            factor.div_(scale)
            top[t] += scale[0].log()

    forward, future = run_both_ways(scores[n_labels:].unsqueeze(-1), factors, step, lengths, advance)

    rows, last = torch.arange(batch), chain.lengths - 1
    total = (forward[last, :, rows] @ scores[-1]).log_()
    total += top.squeeze(1).cumsum(0)[last, rows]
    total += (chain.lengths + 1).double() * peak
    return ScaledMessages(forward, future, factors, step, lengths, total)


def reverse(values: Tensor, lengths: Tensor | None, *, out: Tensor | None = None) -> Tensor:
    """Values from each sequence's last token to its first; meaningless behind that.

    Args:
        values: from the first token to the last, *Shape:* (length, n_labels, batch).
        lengths: the sequences' lengths, *Shape:* (batch,); None where all have the full length.
        out: where to write the result, *Shape:* (length, n_labels, batch).

    Returns:
        the reversed values, *Shape:* (length, n_labels, batch).
    """
    length = len(values)
    if lengths is None:
        return torch.index_select(values, 0, torch.arange(length - 1, -1, -1, device=values.device), out=out)
    index = (lengths - 1 - torch.arange(length, device=values.device)[:, None]).clamp_min(0)  # (length, batch)
    return torch.gather(values, 0, index[:, None].expand_as(values), out=out)


def run_both_ways(
    ends: Tensor | float,
    factors: Tensor,
    step: Tensor,
    lengths: Tensor | None,
    advance: Callable[[int, Tensor, Tensor, Tensor], None],
) -> tuple[Tensor, Tensor]:
    """One loop over positions for both directions, of which the second reads each sequence from its last token on.

        before_t = step · after_{t-1}        after_t = advance(before_t), which multiplies by factors_t

    Args:
        ends: what each direction begins with, *Shape:* (2, n_labels, 1), or one number for all.
        factors: of each direction's positions, *Shape:* (2, length, n_labels, batch).
        step: of each direction, *Shape:* (2, n_labels, n_labels).
        lengths: the sequences' lengths, *Shape:* (batch,); None where all have the full length.
        advance: ``advance(t, before, after, factor)`` fills `after` from `before` and `factor`, each of *Shape:*
            (2, n_labels, batch): messages without and with the emission of direction 0's position t and of direction
            1's position t from the end.

    Returns:
        `after` of direction 0, in reading order, *Shape:* (length, n_labels, batch).
        `before` of direction 1, in reading order, *Shape:* (length, n_labels, batch).
    """
    _, length, n_labels, batch = factors.shape
    # Of each pair only one half is of use later. So the pairs overlap: the next one's is written over the other half,
    # upwards from position 0 in one buffer, downwards from position L - 1 in the other: half the memory to go through.
    buffers = factors.new_empty(2, length + 1, n_labels, batch)
    size, stride = (length, 2, n_labels, batch), (batch * n_labels, batch * n_labels, batch, 1)
    afters = buffers[0].as_strided(size, stride).unbind(0)
    befores = buffers[1].as_strided(size, stride, buffers[1].storage_offset()).unbind(0)[::-1]
    multipliers = factors.unbind(1)
    befores[0].copy_(ends) if isinstance(ends, Tensor) else befores[0].fill_(ends)
    advance(0, befores[0], afters[0], multipliers[0])
    with torch.autocast(factors.device.type, enabled=False):
        for t in range(1, length):
            torch.bmm(step, afters[t - 1], out=befores[t])
            advance(t, befores[t], afters[t], multipliers[t])
    if lengths is None:
        return buffers[0, :length], buffers[1, 1:]
    # A sequence of n tokens has its last one where the longest has: L - n further up.
    index = (length + 1 - lengths + torch.arange(length, device=lengths.device)[:, None]).clamp_max(length)
    return buffers[0, :length], buffers[1].gather(0, index[:, None].expand(length, n_labels, batch))


def unary_marginals(messages: ScaledMessages, weights: Tensor) -> Tensor:
    """weights[t, b] · P(y_t = k | x_b).

    Args:
        messages: both directions'.
        weights: 0 behind a sequence's end, *Shape:* (length, batch).

    Returns:
        the weighted marginals, *Shape:* (length, n_labels, batch).
    """
    product = messages.forward * messages.future
    return product.mul_((weights / product.sum(1).clamp_min_(TINY)).unsqueeze(1))


def marginals_and_transitions(messages: ScaledMessages, weights: Tensor) -> tuple[Tensor, Tensor]:
    """weights[t, b] · P(y_t = k | x_b), and Σ over t and b of weights[t, b] · P(y_{t-1} = i, y_t = j | x_b).

    The total over pairs of labels, forward[t-1] · step · (factors · future)[t], is forward[t] · future[t].

    Args:
        messages: both directions'.
        weights: 0 behind a sequence's end, *Shape:* (length, batch).

    Returns:
        the weighted marginals, *Shape:* (length, n_labels, batch).
        the weighted sum of pairs' marginals, *Shape:* (n_labels, n_labels).
    """
    unary = messages.forward * messages.future
    shares = (weights / unary.sum(1).clamp_min_(TINY)).unsqueeze(1)
    right = (messages.factors[0, 1:] * messages.future[1:]).mul_(shares[1:])
    return unary.mul_(shares), _summed_pairs(messages.forward[:-1], right).mul_(messages.step[1])


def _summed_pairs(left: Tensor, right: Tensor) -> Tensor:
    """Σ over positions and sequences of left[·, i, ·] · right[·, j, ·], *Shape:* (n_labels, n_labels)."""
    return torch.bmm(left, right.transpose(1, 2)).sum(0)


def grad_of_log_marginals(
    messages: ScaledMessages, grad_log_marginals: Tensor, inside: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient of Σ grad_log_marginals · log-marginals with respect to emissions and transitions.

    As the Hessian of log Z is symmetric, that is how the unary marginals and the expected transitions move when the
    emissions move along `direction` = grad_log_marginals / marginals: the forward-backward recursions are
    differentiated once along it (Li and Eisner 2009, "First- and second-order expectation semirings", section 3), at
    the cost of one more loop. With a dot for that derivative, and messages in the linear domain:

        forward˙_t = factors_t · (step · forward˙_{t-1}) + forward_t · direction_t        (future˙ likewise)
        P˙_t       = (forward˙_t · future_t + forward_t · future˙_t) / total_t - P_t · (its sum over labels)

    Args:
        messages: both directions'.
        grad_log_marginals: gradient of the first sequences' log-marginals, anything where a marginal is 0,
            *Shape:* (n_rows, length, n_labels).
        inside: 1 on tokens, 0 behind a sequence's end, *Shape:* (length, n_rows).

    Returns:
        gradient of the emissions, *Shape:* (length, n_labels, n_rows).
        gradient of the transitions, *Shape:* (n_labels, n_labels).
    """
    n_rows = len(grad_log_marginals)
    forward, future, factors = (x[..., :n_rows] for x in (messages.forward, messages.future, messages.factors))
    lengths = None if messages.lengths is None else messages.lengths[:n_rows]
    marginals = forward * future
    total = marginals.sum(1, keepdim=True).clamp_min_(TINY)
    weight = inside.unsqueeze(1) / total
    marginals *= weight
    direction = torch.empty_like(marginals).copy_(grad_log_marginals.permute(1, 2, 0))
    direction.div_(marginals).masked_fill_(marginals == 0, 0.0)

    drift = torch.empty_like(factors, memory_format=torch.contiguous_format)
    torch.mul(forward, direction, out=drift[0])
    reverse(future * direction, lengths, out=drift[1])
    drift[1] *= factors[1]
    drifts = drift.unbind(1)

    def advance(t: int, before: Tensor, after: Tensor, factor: Tensor) -> None:
        torch.addcmul(drifts[t], before, factor, out=after)

    forward_moved, future_moved = run_both_ways(0.0, factors, messages.step, lengths, advance)
    moved = (forward_moved * future).addcmul_(forward, future_moved)
    share = moved.sum(1, keepdim=True).div_(total)
    unary = moved.mul_(weight).addcmul_(marginals, share, value=-1)

    # The pairs' total and how it moves are those of the unary marginals, see marginals_and_transitions.
    right = (factors[0] * future).mul_(weight)
    right_moved = (factors[0] * future_moved).mul_(weight).addcmul_(right, direction.sub_(share))
    pairs = _summed_pairs(forward_moved[:-1], right[1:]) + _summed_pairs(forward[:-1], right_moved[1:])
    return unary, pairs.mul_(messages.step[1])


class LogMessages(NamedTuple):
    """Log-domain messages: `forward` and `backward` include the position's own emission, `future` does not."""

    forward: Tensor
    """*Shape:* (batch, length, n_labels)."""
    backward: Tensor
    """*Shape:* (batch, length, n_labels)."""
    future: Tensor
    """*Shape:* (batch, length, n_labels)."""
    log_partition: Tensor
    """*Shape:* (batch,)."""


def log_messages(chain: Chain) -> LogMessages:
    """Run both recursions in the log domain: any scores, differentiable by autograd, nothing read back from a device.

    On a CPU several times slower than the linear domain; on a GPU one kernel, where Triton is there.
    """
    step = torch.stack([chain.transitions, chain.transitions.T]).clamp_min(IMPOSSIBLE)
    ends = torch.stack([chain.start, chain.stop]).clamp_min(IMPOSSIBLE)
    run = plain_messages
    if chain.emissions.device.type in KERNEL_DEVICES and len(chain.start) <= MAX_KERNEL_LABELS:
        from ner.crf.kernels import KernelMessages  # Triton may be missing, and is slow to import

        run = KernelMessages.apply
    (forward, _), (backward, future) = run(chain.emissions, step, ends, chain.lengths).unbind(0)
    rows = torch.arange(len(chain.lengths), device=chain.lengths.device)
    log_partition = torch.logsumexp(forward[rows, chain.lengths - 1] + ends[1], dim=-1)
    return LogMessages(forward, backward, future, log_partition)


def plain_messages(emissions: Tensor, step: Tensor, ends: Tensor, lengths: Tensor) -> Tensor:
    """Log-domain messages of both directions, each with and without the position's own emission.

        after_t[j] = before_t[j] + e_t[j]        before_{t+1}[j] = log Σ_i exp(after_t[i] + step[i, j])

    Args:
        emissions: label scores, *Shape:* (batch, length, n_labels).
        step: transitions from row to column, as each direction takes them, finite, *Shape:* (2, n_labels, n_labels).
        ends: what each direction begins with, finite, *Shape:* (2, n_labels).
        lengths: the sequences' lengths, *Shape:* (batch,).

    Returns:
        messages of each direction, with and without the emission, float64, in reading order, meaningless behind a
        sequence's end, *Shape:* (2, 2, batch, length, n_labels).
    """
    positions = torch.arange(emissions.shape[1], device=lengths.device)
    known = emissions.double().masked_fill((positions >= lengths[:, None]).unsqueeze(-1), 0.0)
    rows, index = torch.arange(len(lengths), device=lengths.device)[:, None], (lengths[:, None] - 1 - positions)
    index = index.clamp_min(0)  # (batch, length), from the last token to the first
    both = torch.stack([known, known[rows, index]])  # (2, batch, length, n_labels)
    before = [ends.unsqueeze(1).expand_as(both[:, :, 0])]
    after = [before[0] + both[:, :, 0]]
    for t in range(1, len(positions)):
        before.append(torch.logsumexp(after[-1].unsqueeze(-1) + step.unsqueeze(1), dim=2))
        after.append(before[-1] + both[:, :, t])
    onwards, backwards = torch.stack([torch.stack(after, dim=2), torch.stack(before, dim=2)], dim=1).unbind(0)
    return torch.stack([onwards, backwards[:, rows, index]])


def log_marginals_of(messages: LogMessages) -> Tensor:
    """log P(y_t = k | x), -inf where no allowed path passes, *Shape:* (batch, length, n_labels)."""
    joint = messages.forward + messages.future
    log_marginals = joint - joint.logsumexp(-1, keepdim=True)
    return log_marginals.masked_fill(log_marginals < IMPOSSIBLE / 10, -torch.inf)


def path_log_probabilities(chain: Chain, mixing: int | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log P(y_t = labels_t | x) and log P(y_t = labels_t | y_{t-1} = labels_{t-1}, x), without gradients.

    The second is transition times message from y_t on, over the sum of that for all y_t.

    Args:
        chain: the scores.
        mixing: see :func:`steps_to_mix`.
        labels: paths, *Shape:* (batch, length).

    Returns:
        log-probabilities of the labels, meaningless behind a sequence's end, *Shape:* (batch, length).
        log-probabilities of each label given the one before, likewise, *Shape:* (batch, length - 1).
    """
    scaled = scaled_messages(chain, mixing)
    if scaled is None:
        messages = log_messages(chain)
        index = labels.unsqueeze(-1)
        forward, backward, future = (x.gather(2, index).squeeze(-1) for x in messages[:3])
        moved = chain.transitions[labels[:, :-1], labels[:, 1:]].clamp_min(IMPOSSIBLE)
        return forward + future - messages.log_partition[:, None], moved + backward[:, 1:] - future[:, :-1]
    index = labels.T.unsqueeze(1)  # (length, 1, batch)
    product = scaled.forward * scaled.future
    marginal = product.gather(1, index).squeeze(1) / product.sum(1).clamp_min_(TINY)
    leaving = scaled.step[1][labels[:, :-1]].permute(1, 2, 0) * (scaled.factors[0, 1:] * scaled.future[1:])
    moved = leaving.gather(1, index[1:]).squeeze(1) / leaving.sum(1).clamp_min_(TINY)
    return marginal.log().T, moved.log().T
