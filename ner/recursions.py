"""The forward and backward recursions of a linear chain, and their exact derivatives, as plain functions of tensors.

Both directions run in one loop over positions, in float64 and in the linear domain where the scores' range allows it
(nearly always), else in the log domain. What the scores mean, which transitions are allowed and what is asked of the
chain is left to :mod:`ner.crf`.

Shapes: B sequences, L positions (the longest sequence), K labels.
"""

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
    """A batch of chains. Excluded transitions are -inf; `emissions` are 0 behind a sequence's end."""

    emissions: Tensor  # [B, L, K] float64
    transitions: Tensor  # [K, K] float64, from row to column
    start: Tensor  # [K] float64
    stop: Tensor  # [K] float64
    lengths: Tensor  # [B] int64, each at least 1


@dataclass(frozen=True, slots=True)
class ScaledMessages:
    """Forward messages and time-reversed backward messages, side by side, rescaled now and then.

    For each position t and direction, ``before[t] = after[t-1] @ step`` and ``after[t] = before[t] * factors[t]``, so
    `factors` holds the exponentiated emissions and the scaling. Direction 1 reads a sequence from its last token on.
    The scale of a message has no meaning; the product of a forward and a backward message does not underflow.
    """

    before: Tensor  # [L, 2, B, K] messages without the position's own emission
    after: Tensor  # [L, 2, B, K] messages with it
    factors: Tensor  # [L, 2, B, K]
    step: Tensor  # [2, K, K] exponentiated transitions, and their transpose
    reversal: Tensor | None  # [L, B, K] index that turns direction 1 to reading order; None: plain flip
    log_partition: Tensor  # [B]

    def reading_order(self, messages: Tensor) -> Tensor:
        """Direction 1 of `messages` [L, 2, B, K] from the first token to the last: [L, B, K]."""
        backward = messages[:, 1]
        return backward.flip(0) if self.reversal is None else backward.gather(0, self.reversal)


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
    emissions = chain.emissions.transpose(0, 1)  # [L, B, K]
    length, batch, n_labels = emissions.shape
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

    factors = emissions.new_empty(length, 2, batch, n_labels)
    torch.sub(emissions, top, out=factors[:, 0])
    factors[:, 0].exp_()
    reversal = None
    # Asking the lengths would make a GPU wait.
    if emissions.device.type == "cpu" and bool((chain.lengths == length).all()):
        factors[:, 1] = factors[:, 0].flip(0)
    else:
        index = (chain.lengths - 1 - torch.arange(length, device=emissions.device)[:, None]).clamp_min(0)  # [L, B]
        reversal = index[:, :, None].expand(length, batch, n_labels)
        torch.gather(factors[:, 0], 0, reversal, out=factors[:, 1])
    scaled = (chain.transitions - peak).exp()
    step = torch.stack([scaled, scaled.T])

    before, after = torch.empty_like(factors), torch.empty_like(factors)
    before[0] = (ends - ends_peak).exp()[:, None, :]
    torch.mul(before[0], factors[0], out=after[0])
    befores, afters, multipliers = before.unbind(0), after.unbind(0), factors.unbind(0)
    log_scale = emissions.new_zeros(length, batch)
    with torch.autocast(emissions.device.type, enabled=False):
        for t in range(1, length):
            torch.bmm(afters[t - 1], step, out=befores[t])
            torch.mul(befores[t], multipliers[t], out=afters[t])
            if t % period == 0:
                scale = afters[t].amax(-1, keepdim=True).clamp_min_(TINY)
                afters[t].div_(scale)
                multipliers[t].div_(scale)
                log_scale[t] = scale[0, :, 0].log()

    rows = torch.arange(batch, device=emissions.device)
    last = chain.lengths - 1
    total = (after[last, 0, rows] * before[0, 1]).sum(-1).log()
    total += log_scale.cumsum(0)[last, rows] + top.squeeze(-1).sum(0)
    total += last * peak + ends_peak.sum()
    return ScaledMessages(before, after, factors, step, reversal, total)


def unary_marginals(messages: ScaledMessages, inside: Tensor) -> Tensor:
    """P(y_t = k | x) as [L, B, K], 0 behind a sequence's end, where `inside` [L, B] is 0."""
    product = messages.after[:, 0] * messages.reading_order(messages.before)
    return product.mul_((inside / product.sum(-1).clamp_min_(TINY)).unsqueeze(-1))


def expected_transitions(messages: ScaledMessages, weights: Tensor) -> Tensor:
    """Σ over sequences b and positions t of weights[t-1, b] · P(y_{t-1}, y_t | x_b), as [K, K].

    Args:
        weights: [L-1, B]; must be 0 behind a sequence's end.
    """
    forward, backward = messages.after[:-1, 0], messages.reading_order(messages.after)[1:]
    total = (messages.before[1:, 0] * backward).sum(-1).clamp_min_(TINY)
    left = forward * (weights / total).unsqueeze(-1)
    return messages.step[0] * (left.flatten(0, 1).T @ backward.flatten(0, 1))


def marginal_derivative(messages: ScaledMessages, direction: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """How unary marginals and summed expected transitions move when the emissions move along `direction`.

    The Hessian of log Z is symmetric, so this is also the gradient, by emissions and by transitions, of
    Σ direction · marginals: the forward-backward recursions are differentiated once along `direction`
    (Li and Eisner 2009, "First- and second-order expectation semirings", section 3), at the cost of one more loop.

    Args:
        direction: [L, B, K], 0 behind a sequence's end.
        inside: [L, B], 1 inside a sequence and 0 behind its end.

    Returns:
        [L, B, K] and [K, K].
    """
    length = len(direction)
    backward_direction = direction.flip(0) if messages.reversal is None else direction.gather(0, messages.reversal)
    drift = messages.after * torch.stack([direction, backward_direction], dim=1)
    before, after = torch.empty_like(drift), torch.empty_like(drift)
    before[0].zero_()
    after[0] = drift[0]
    befores, afters, drifts, multipliers = (x.unbind(0) for x in (before, after, drift, messages.factors))
    with torch.autocast(direction.device.type, enabled=False):
        for t in range(1, length):
            torch.bmm(afters[t - 1], messages.step, out=befores[t])
            torch.addcmul(drifts[t], befores[t], multipliers[t], out=afters[t])

    forward, backward = messages.after[:, 0], messages.reading_order(messages.before)
    product = forward * backward
    total = product.sum(-1, keepdim=True).clamp_min_(TINY)
    moved = after[:, 0] * backward + forward * messages.reading_order(before)
    unary = (moved - product * (moved.sum(-1, keepdim=True) / total)) / total
    unary *= inside.unsqueeze(-1)

    left, right = forward[:-1], messages.reading_order(messages.after)[1:]
    left_moved, right_moved = after[:-1, 0], messages.reading_order(after)[1:]
    total = (messages.before[1:, 0] * right).sum(-1, keepdim=True).clamp_min_(TINY)
    total_moved = (before[1:, 0] * right + messages.before[1:, 0] * right_moved).sum(-1, keepdim=True)
    weight = inside[1:].unsqueeze(-1) / total
    first = (left_moved - left * (total_moved / total)) * weight
    pairs = first.flatten(0, 1).T @ right.flatten(0, 1) + (left * weight).flatten(0, 1).T @ right_moved.flatten(0, 1)
    return unary, messages.step[0] * pairs


class LogMessages(NamedTuple):
    """Log-domain messages [B, L, K]: `forward` and `backward` include the position's own emission, `future` not."""

    forward: Tensor
    backward: Tensor
    future: Tensor
    log_partition: Tensor  # [B]


def log_messages(chain: Chain) -> LogMessages:
    """Run both recursions in the log domain: any scores, differentiable by autograd, several times slower."""
    length = chain.emissions.shape[1]
    transitions, start, stop = (x.clamp_min(IMPOSSIBLE) for x in (chain.transitions, chain.start, chain.stop))
    rows = torch.arange(len(chain.lengths), device=chain.lengths.device)
    index = (chain.lengths[:, None] - 1 - torch.arange(length, device=rows.device)).clamp_min(0)  # [B, L]
    both = torch.stack([chain.emissions, chain.emissions[rows[:, None], index]])  # [2, B, L, K]
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
    message from y_{t-1} on.
    """
    scaled = scaled_messages(chain, mixing)
    if scaled is None:
        messages = log_messages(chain)
        index = labels.unsqueeze(-1)
        forward, backward, future = (x.gather(2, index).squeeze(-1) for x in messages[:3])
        moved = chain.transitions[labels[:, :-1], labels[:, 1:]].clamp_min(IMPOSSIBLE)
        return forward + future - messages.log_partition[:, None], moved + backward[:, 1:] - future[:, :-1]
    index = labels.T.unsqueeze(-1)  # [L, B, 1]
    future = scaled.reading_order(scaled.before)
    product = scaled.after[:, 0] * future
    marginal = product.gather(2, index).squeeze(-1) / product.sum(-1).clamp_min_(TINY)
    backward, future = (x.gather(2, index).squeeze(-1) for x in (scaled.reading_order(scaled.after), future))
    moved = scaled.step[0][labels[:, :-1], labels[:, 1:]].T * backward[1:] / future[:-1].clamp_min_(TINY)
    return marginal.log().T, moved.log().T


class LogPartition(torch.autograd.Function):
    """log Z [B] of a chain, and where asked for its log-marginals [B, L, K], with exact gradients by forward-backward.

    The gradient of log Z is the marginals themselves; that of the marginals is :func:`marginal_derivative`. Only
    chains whose scores' range exceeds float64's exponents are recomputed in the log domain under autograd.
    """

    @staticmethod
    def forward(
        ctx: Any, mixing: int | None, with_marginals: bool, lengths: Tensor, *scores: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        chain = Chain(scores[0], scores[1], scores[2], scores[3], lengths)
        ctx.set_materialize_grads(False)
        ctx.messages = scaled_messages(chain, mixing)
        if ctx.messages is None:
            messages = log_messages(chain)
            ctx.save_for_backward(lengths, *scores)
            if not with_marginals:
                return messages.log_partition, None
            padding = torch.arange(chain.emissions.shape[1], device=lengths.device) >= lengths[:, None]
            return messages.log_partition, log_marginals_of(messages).masked_fill(padding.unsqueeze(-1), -torch.inf)
        length = chain.emissions.shape[1]
        inside = (torch.arange(length, device=lengths.device)[:, None] < lengths).to(chain.emissions.dtype)
        marginals = unary_marginals(ctx.messages, inside)
        ctx.save_for_backward(lengths, marginals, inside)
        return ctx.messages.log_partition, marginals.log().transpose(0, 1) if with_marginals else None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_partition: Tensor | None, of_marginals: Tensor | None) -> tuple[Tensor | None, ...]:
        if of_partition is None and of_marginals is None:
            return (None,) * 7
        if ctx.messages is None:
            return (None, None, None, *_autograd_gradient(ctx.saved_tensors, of_partition, of_marginals))
        lengths, marginals, inside = ctx.saved_tensors
        n_labels = marginals.shape[-1]
        unary, pairs = marginals.new_zeros(()), marginals.new_zeros(n_labels, n_labels)
        if of_partition is not None:
            unary = marginals * of_partition[:, None]
            pairs = expected_transitions(ctx.messages, inside[1:] * of_partition)
        if of_marginals is not None:
            direction = (of_marginals.transpose(0, 1) / marginals).masked_fill_(marginals == 0, 0.0)
            unary_moved, pairs_moved = marginal_derivative(ctx.messages, direction, inside)
            unary, pairs = unary + unary_moved, pairs + pairs_moved
        last = unary[lengths - 1, torch.arange(len(lengths), device=lengths.device)]
        return None, None, None, unary.transpose(0, 1), pairs, unary[0].sum(0), last.sum(0)


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
            log_marginals = log_marginals_of(messages)
            outputs.append(log_marginals)
            inside = torch.arange(log_marginals.shape[1], device=lengths.device) < lengths[:, None]
            gradients.append(of_marginals.masked_fill(log_marginals.isinf() | ~inside.unsqueeze(-1), 0.0))
        return torch.autograd.grad(outputs, leaves, gradients, materialize_grads=True)


def log_partition(chain: Chain, mixing: int | None) -> Tensor:
    """log Z [B]."""
    return LogPartition.apply(mixing, False, chain.lengths, *chain[:4])[0]


def log_partition_and_marginals(chain: Chain, mixing: int | None) -> tuple[Tensor, Tensor]:
    """log Z [B] and log P(y_t = k | x) [B, L, K], -inf where no allowed path passes and behind a sequence's end."""
    return LogPartition.apply(mixing, True, chain.lengths, *chain[:4])
