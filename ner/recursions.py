"""The forward and backward recursions of a linear chain, and their exact derivatives, as plain functions of tensors.

Both directions run in one loop over positions, in float64 and in the linear domain where the scores' range allows it
(nearly always), else in the log domain. What the scores mean, which transitions are allowed and what is asked of the
chain is left to :mod:`ner.crf`.

Shapes: B sequences, L positions (the longest sequence), K labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# exp() of float64 underflows below about -708; what is left over guards sums of many small terms.
EXPONENT_BUDGET = 650.0
# Keeps divisions defined where nothing is possible, which is behind a sequence's end only.
TINY = 1e-300
# Stands for -inf where derivatives are taken by autograd: far below any score, yet free of inf - inf.
IMPOSSIBLE = -1e30


class Chain(NamedTuple):
    """A batch of chains. Excluded transitions are -inf; `emissions` are 0 behind a sequence's end.

    Emissions may come in float32, which saves passes over them; whatever is computed of them is float64.
    """

    emissions: Tensor  # [B, L, K] float32 or float64
    transitions: Tensor  # [K, K] float64, from row to column
    start: Tensor  # [K] float64
    stop: Tensor  # [K] float64
    lengths: Tensor  # [B] int64, each at least 1


@dataclass(frozen=True, slots=True)
class ScaledMessages:
    """Forward and backward messages [L, B, K] of exponentiated scores, rescaled now and then.

    `forward` includes the position's own emission, `future` does not: their product, normalised, is the marginals.
    Their scales have no meaning, but are such that ``forward[t] = (forward[t-1] @ step) * factors[0, t]``. No product
    of two messages at a position underflows.
    """

    forward: Tensor  # [L, B, K]
    future: Tensor  # [L, B, K]
    factors: Tensor  # [2, L, B, K] exponentiated emissions over scales; direction 1 in its own order of positions
    step: Tensor  # [2, K, K] exponentiated transitions, and their transpose
    lengths: Tensor | None  # [B]; None: all L
    log_partition: Tensor  # [B]


def steps_to_mix(allowed: Tensor) -> int | None:
    """The least n such that every label reaches every label in exactly n allowed transitions (None: there is none).

    It bounds how far below the likeliest label's message any other's can fall, hence when scaling is safe.
    """
    step = allowed.double()
    reached = step
    for n in range(1, 2 * len(step) + 1):
        if bool((reached > 0).all()):
            return n
        reached = (reached @ step > 0).double()
    return None


def scaled_messages(chain: Chain, mixing: int | None) -> ScaledMessages | None:
    """Run both recursions in the linear domain, or return None where the scores' range forbids it.

    Between two rescalings, over n positions, a message shrinks by at most exp(-n·range); an allowed label's message
    lies at most a factor exp(-mixing·range) below the largest. A product of two such messages must fit float64.
    """
    if mixing is None:
        return None
    batch, length, n_labels = chain.emissions.shape
    factors = chain.transitions.new_empty(2, length, batch, n_labels)
    emissions = factors[0].copy_(chain.emissions.transpose(0, 1))  # [L, B, K]; float32 is slow to reduce
    top = emissions.amax(-1, keepdim=True)  # [L, B, 1]
    peak = chain.transitions.amax()
    finite = chain.transitions.masked_fill(chain.transitions.isinf(), torch.inf).amin()
    ends = torch.stack([chain.start, chain.stop])
    ends_peak = ends.amax(-1, keepdim=True)
    ends_low = ends.masked_fill(ends.isinf(), torch.inf).amin()
    widest = (top - emissions.amin(-1, keepdim=True)).amax() + torch.maximum(peak - finite, ends_peak.amax() - ends_low)
    spread = max(float(widest), 1e-9)
    # `not <=` also sends NaN and infinite scores to the log domain, which passes them on honestly.
    if not 2 * (mixing + 1) * spread <= EXPONENT_BUDGET:
        return None
    period = min(int(EXPONENT_BUDGET / 2 / spread) - mixing, 64)

    emissions.sub_(top).exp_()
    # Asking the lengths would make a GPU wait.
    same = emissions.device.type == "cpu" and bool((chain.lengths == length).all())
    lengths = None if same else chain.lengths
    reverse(factors[0], lengths, out=factors[1])
    scaled = (chain.transitions - peak).exp()
    step = torch.stack([scaled, scaled.T])
    log_scale = top.new_zeros(length, batch)

    def advance(t: int, before: Tensor, after: Tensor, factor: Tensor) -> None:
        torch.mul(before, factor, out=after)
        if t and t % period == 0:
            scale = after.amax(-1, keepdim=True).clamp_min_(TINY)
            after.div_(scale)
            factor.div_(scale)
            log_scale[t] = scale[0, :, 0].log()

    ends_scaled = (ends - ends_peak).exp()
    forward, future = run_both_ways(ends_scaled[:, None, :], factors, step, lengths, advance)

    rows = torch.arange(batch, device=emissions.device)
    last = chain.lengths - 1
    total = (forward[last, rows] @ ends_scaled[1]).log()
    total += log_scale.cumsum(0)[last, rows] + top.squeeze(-1).sum(0)
    total += last * peak + ends_peak.sum()
    return ScaledMessages(forward, future, factors, step, lengths, total)


def reverse(values: Tensor, lengths: Tensor | None, *, out: Tensor | None = None) -> Tensor:
    """Values [L, B, K] from each sequence's last token to its first; meaningless behind that."""
    length = len(values)
    if lengths is None:
        return torch.index_select(values, 0, torch.arange(length - 1, -1, -1, device=values.device), out=out)
    index = (lengths - 1 - torch.arange(length, device=values.device)[:, None]).clamp_min(0)  # [L, B]
    return torch.gather(values, 0, index[:, :, None].expand_as(values), out=out)


def run_both_ways(
    ends: Tensor | float, factors: Tensor, step: Tensor, lengths: Tensor | None,
    advance: Callable[[int, Tensor, Tensor, Tensor], None],
) -> tuple[Tensor, Tensor]:
    """One loop over positions for both directions, of which the second reads each sequence from its last token on.

    ``advance(t, before, after, factor)`` fills `after` from `before`, both [2, B, K]: messages without and with the
    emission of direction 0's position t and of direction 1's, t from the end.

    Returns:
        `after` of direction 0 and `before` of direction 1, both [L, B, K] in reading order.
    """
    _, length, batch, n_labels = factors.shape
    # Of each pair only one half is of use later. So the pairs overlap: the next one's is written over the other half,
    # upwards from position 0 in one buffer, downwards from position L - 1 in the other: half the memory to go through.
    buffers = factors.new_empty(2, length + 1, batch, n_labels)
    size, stride = (length, 2, batch, n_labels), (batch * n_labels, batch * n_labels, n_labels, 1)
    afters = buffers[0].as_strided(size, stride).unbind(0)
    befores = buffers[1].as_strided(size, stride, buffers[1].storage_offset()).unbind(0)[::-1]
    multipliers = factors.unbind(1)
    befores[0].copy_(ends) if isinstance(ends, Tensor) else befores[0].fill_(ends)
    advance(0, befores[0], afters[0], multipliers[0])
    with torch.autocast(factors.device.type, enabled=False):
        for t in range(1, length):
            torch.bmm(afters[t - 1], step, out=befores[t])
            advance(t, befores[t], afters[t], multipliers[t])
    if lengths is None:
        return buffers[0, :length], buffers[1, 1:]
    # A sequence of n tokens has its last one where the longest has: L - n further up.
    index = (length + 1 - lengths + torch.arange(length, device=lengths.device)[:, None]).clamp_max(length)
    return buffers[0, :length], buffers[1].gather(0, index[:, :, None].expand(length, batch, n_labels))


def unary_marginals(messages: ScaledMessages, weights: Tensor) -> Tensor:
    """weights[t, b] · P(y_t = k | x_b) as [L, B, K]; `weights` must be 0 behind a sequence's end."""
    product = messages.forward * messages.future
    return product.mul_((weights / product.sum(-1).clamp_min_(TINY)).unsqueeze(-1))


def marginals_and_transitions(messages: ScaledMessages, weights: Tensor) -> tuple[Tensor, Tensor]:
    """weights[b] · P(y_t = k | x_b) as [L, B, K], and Σ over b and t of weights[b] · P(y_{t-1}, y_t | x_b) as [K, K].

    The total over pairs of labels, forward[t-1] · step · (factors · future)[t], is forward[t] · future[t].

    Args:
        weights: [L, B]; must be 0 behind a sequence's end.
    """
    unary = messages.forward * messages.future
    shares = (weights / unary.sum(-1).clamp_min_(TINY)).unsqueeze(-1)
    right = (messages.factors[0, 1:] * messages.future[1:]).mul_(shares[1:])
    pairs = messages.forward[:-1].flatten(0, 1).T @ right.flatten(0, 1)
    return unary.mul_(shares), pairs.mul_(messages.step[0])


def marginal_derivative(messages: ScaledMessages, of_log: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of Σ of_log · log-marginals by emissions and by transitions.

    As the Hessian of log Z is symmetric, that is how the unary marginals and the expected transitions move when the
    emissions move along `direction` = of_log / marginals: the forward-backward recursions are differentiated once
    along it (Li and Eisner 2009, "First- and second-order expectation semirings", section 3), at the cost of one more
    loop.

    Args:
        of_log: [R, L, K] for the first R sequences; anything where a marginal is 0.
        inside: [L, R], 1 inside a sequence and 0 behind its end.

    Returns:
        [L, R, K] and [K, K].
    """
    n_rows = len(of_log)
    forward, future = messages.forward[:, :n_rows], messages.future[:, :n_rows]
    factors = messages.factors[:, :, :n_rows]
    lengths = None if messages.lengths is None else messages.lengths[:n_rows]
    product = forward * future
    total = product.sum(-1, keepdim=True).clamp_min_(TINY)
    weight = inside.unsqueeze(-1) / total
    marginals = product * weight
    direction = (of_log.transpose(0, 1) / marginals).masked_fill_(marginals == 0, 0.0)

    drift = torch.empty_like(factors, memory_format=torch.contiguous_format)
    torch.mul(forward, direction, out=drift[0])
    reverse(future * direction, lengths, out=drift[1])
    drift[1] *= factors[1]
    drifts = drift.unbind(1)

    def advance(t: int, before: Tensor, after: Tensor, factor: Tensor) -> None:
        torch.addcmul(drifts[t], before, factor, out=after)

    forward_moved, future_moved = run_both_ways(0.0, factors, messages.step, lengths, advance)
    moved = torch.addcmul(forward_moved * future, forward, future_moved)
    share = moved.sum(-1, keepdim=True).div_(total)
    unary = torch.addcmul(moved.mul_(weight), marginals, share, value=-1)

    # The pairs' total and how it moves are those of the unary marginals, see marginals_and_transitions.
    right = (factors[0] * future).mul_(weight)
    right_moved = (factors[0] * future_moved).mul_(weight).addcmul_(right, direction.sub_(share))
    pairs = forward_moved[:-1].flatten(0, 1).T @ right[1:].flatten(0, 1)
    pairs += forward[:-1].flatten(0, 1).T @ right_moved[1:].flatten(0, 1)
    return unary, pairs.mul_(messages.step[0])


class LogMessages(NamedTuple):
    """Log-domain messages [B, L, K]: `forward` and `backward` include the position's own emission, `future` not."""

    forward: Tensor
    backward: Tensor
    future: Tensor
    log_partition: Tensor  # [B]


def log_messages(chain: Chain) -> LogMessages:
    """Run both recursions in the log domain: any scores, differentiable by autograd, several times slower."""
    emissions, length = chain.emissions.double(), chain.emissions.shape[1]
    transitions, start, stop = (x.clamp_min(IMPOSSIBLE) for x in (chain.transitions, chain.start, chain.stop))
    rows = torch.arange(len(chain.lengths), device=chain.lengths.device)
    index = (chain.lengths[:, None] - 1 - torch.arange(length, device=rows.device)).clamp_min(0)  # [B, L]
    both = torch.stack([emissions, emissions[rows[:, None], index]])  # [2, B, L, K]
    step = torch.stack([transitions, transitions.T]).unsqueeze(1)  # [2, 1, K, K]
    before = [torch.stack([start, stop]).unsqueeze(1).expand(both.shape[0], both.shape[1], both.shape[3])]
    after = [before[0] + both[:, :, 0]]
    for t in range(1, length):
        before.append(torch.logsumexp(after[-1].unsqueeze(-1) + step, dim=2))
        after.append(before[-1] + both[:, :, t])
    with_emission, without = torch.stack(after, dim=2), torch.stack(before, dim=2)  # [2, B, L, K]
    backward, future = with_emission[1][rows[:, None], index], without[1][rows[:, None], index]
    log_partition = torch.logsumexp(with_emission[0][rows, chain.lengths - 1] + stop, dim=-1)
    return LogMessages(with_emission[0], backward, future, log_partition)


def log_marginals_of(messages: LogMessages) -> Tensor:
    """log P(y_t = k | x) as [B, L, K] in log space; -inf where no allowed path passes."""
    joint = messages.forward + messages.future
    log_marginals = joint - joint.logsumexp(-1, keepdim=True)
    return log_marginals.masked_fill(log_marginals < IMPOSSIBLE / 10, -torch.inf)


def path_log_probabilities(chain: Chain, mixing: int | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log P(y_t = labels_t | x) [B, L] and log P(y_t = labels_t | y_{t-1} = labels_{t-1}, x) [B, L-1].

    Without gradients; meaningless behind a sequence's end. The second is transition times message from y_t on, over
    the sum of that for all y_t.
    """
    scaled = scaled_messages(chain, mixing)
    if scaled is None:
        messages = log_messages(chain)
        index = labels.unsqueeze(-1)
        forward, backward, future = (x.gather(2, index).squeeze(-1) for x in messages[:3])
        moved = chain.transitions[labels[:, :-1], labels[:, 1:]].clamp_min(IMPOSSIBLE)
        return forward + future - messages.log_partition[:, None], moved + backward[:, 1:] - future[:, :-1]
    index = labels.T.unsqueeze(-1)  # [L, B, 1]
    product = scaled.forward * scaled.future
    marginal = product.gather(2, index).squeeze(-1) / product.sum(-1).clamp_min_(TINY)
    leaving = scaled.step[0][labels[:, :-1]].transpose(0, 1) * (scaled.factors[0, 1:] * scaled.future[1:])
    moved = leaving.gather(2, index[1:]).squeeze(-1) / leaving.sum(-1).clamp_min_(TINY)
    return marginal.log().T, moved.log().T


class LogPartition(torch.autograd.Function):
    """log Z [B] of a chain; where asked for, log-marginals: of its first R sequences, [R, L, K], and of the others.

    The gradient of log Z is the marginals themselves; that of the first log-marginals is :func:`marginal_derivative`,
    the others carry none. Only chains whose scores' range exceeds float64's exponents are recomputed in the log domain
    under autograd.
    """

    @staticmethod
    def forward(
        ctx: Any, mixing: int | None, n_rows: int | None, lengths: Tensor, *scores: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        chain = Chain(scores[0], scores[1], scores[2], scores[3], lengths)
        length = chain.emissions.shape[1]
        ctx.set_materialize_grads(False)
        ctx.dtype = chain.emissions.dtype
        ctx.messages = scaled_messages(chain, mixing)
        inside = torch.arange(length, device=lengths.device)[:, None] < lengths
        if ctx.messages is None:
            messages = log_messages(chain)
            ctx.save_for_backward(lengths, *scores)
            if n_rows is None:
                return messages.log_partition, None, None
            log_marginals = log_marginals_of(messages).masked_fill(~inside.T.unsqueeze(-1), -torch.inf)
            partition = messages.log_partition
        else:
            ctx.save_for_backward(lengths, inside)
            partition = ctx.messages.log_partition
            if n_rows is None:
                return partition, None, None
            log_marginals = unary_marginals(ctx.messages, inside.to(partition.dtype)).log_().transpose(0, 1)
        moving, others = log_marginals[:n_rows], log_marginals[n_rows:]
        ctx.mark_non_differentiable(others)
        return partition, moving, others

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_partition: Tensor | None, of_marginals: Tensor | None, _of_others: None
    ) -> tuple[Tensor | None, ...]:
        if of_partition is None and of_marginals is None:
            return (None,) * 7
        if ctx.messages is None:
            return (None, None, None, *_autograd_gradient(ctx.saved_tensors, of_partition, of_marginals))
        lengths, is_inside = ctx.saved_tensors
        inside = is_inside.to(ctx.messages.forward.dtype)
        if of_partition is None:
            unary, pairs = torch.zeros_like(ctx.messages.forward), torch.zeros_like(ctx.messages.step[0])
        else:
            unary, pairs = marginals_and_transitions(ctx.messages, inside * of_partition)
        if of_marginals is not None:
            n_rows = len(of_marginals)
            unary_moved, pairs_moved = marginal_derivative(ctx.messages, of_marginals, inside[:, :n_rows])
            unary[:, :n_rows] += unary_moved
            pairs += pairs_moved
        last = unary[lengths - 1, torch.arange(len(lengths), device=lengths.device)]
        return None, None, None, unary.transpose(0, 1).to(ctx.dtype), pairs, unary[0].sum(0), last.sum(0)


def _autograd_gradient(
    saved: tuple[Tensor, ...], of_partition: Tensor | None, of_marginals: Tensor | None
) -> tuple[Tensor, ...]:
    lengths, *scores = saved
    with torch.enable_grad():
        leaves = [score.detach().requires_grad_() for score in scores]
        messages = log_messages(Chain(leaves[0], leaves[1], leaves[2], leaves[3], lengths))
        outputs, gradients = [], []
        if of_partition is not None:
            outputs.append(messages.log_partition)
            gradients.append(of_partition)
        if of_marginals is not None:
            n_rows = len(of_marginals)
            log_marginals = log_marginals_of(messages)
            outputs.append(log_marginals[:n_rows])
            inside = torch.arange(log_marginals.shape[1], device=lengths.device) < lengths[:, None]
            impossible = (log_marginals.isinf() | ~inside.unsqueeze(-1))[:n_rows]
            gradients.append(of_marginals.masked_fill(impossible, 0.0))
        return torch.autograd.grad(outputs, leaves, gradients, materialize_grads=True)


def log_partition(chain: Chain, mixing: int | None) -> Tensor:
    """log Z [B]."""
    return LogPartition.apply(mixing, None, chain.lengths, *chain[:4])[0]


def log_partition_and_marginals(chain: Chain, mixing: int | None, n_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """log Z [B] and log P(y_t = k | x): [n_rows, L, K], and [B - n_rows, L, K] without gradient, of the others.

    -inf where no allowed path passes and behind a sequence's end.
    """
    return LogPartition.apply(mixing, n_rows, chain.lengths, *chain[:4])
