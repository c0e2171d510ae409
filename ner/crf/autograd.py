"""What is asked of a chain, as one function with exact gradients: log Z, the score of labels, log-marginals.

The recursions and their derivatives are :mod:`ner.crf.recursions`'s; here they meet autograd, and the log domain where
scores are too far apart for the linear one. What the scores mean is left to :mod:`ner.crf.chain`.

Shapes: B sequences, L positions (the longest sequence), K labels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ner.crf.recursions import (
    Chain,
    LogMessages,
    ScaledMessages,
    log_marginals_of,
    log_messages,
    marginal_derivative,
    marginals_and_transitions,
    scaled_messages,
    unary_marginals,
)


class ChainFunction(torch.autograd.Function):
    """log Z [B] of a chain and, where asked for, the score of labels [B] and log-marginals, with exact gradients.

    The gradient of log Z is the marginals themselves; that of the log-marginals is :func:`marginal_derivative`. Only
    chains whose scores' range exceeds float64's exponents are recomputed in the log domain under autograd.
    """

    @staticmethod
    def forward(
        ctx: Any, mixing: int | None, n_rows: int | None, labels: Tensor | None, lengths: Tensor, *scores: Tensor
    ) -> tuple[Tensor | None, ...]:
        """log Z, score of `labels` [B, L], log-marginals of the first `n_rows` sequences, and of the others.

        The last carry no gradient; all but log Z are None where they are not asked for.
        """
        chain = Chain(scores[0], scores[1], scores[2], scores[3], lengths)
        length = chain.emissions.shape[1]
        ctx.set_materialize_grads(False)
        ctx.dtype = chain.emissions.dtype
        ctx.messages = scaled_messages(chain, mixing)
        inside = torch.arange(length, device=lengths.device)[:, None] < lengths
        gold, score = None, None
        if labels is not None:
            gold = labels.masked_fill(~inside.T, 0)
            score = path_score(chain, gold, inside.T)
        # What backward does not need is not kept.
        ctx.save_for_backward(lengths, inside, gold, *(scores if ctx.messages is None else ()))
        messages = log_messages(chain) if ctx.messages is None else ctx.messages
        if n_rows is None:
            return messages.log_partition, score, None, None
        if isinstance(messages, LogMessages):
            log_marginals = log_marginals_of(messages).masked_fill(~inside.T.unsqueeze(-1), -torch.inf)
        else:
            log_marginals = unary_marginals(messages, inside.to(messages.forward.dtype)).log_().permute(2, 0, 1)
        moving, others = log_marginals[:n_rows], log_marginals[n_rows:]
        ctx.mark_non_differentiable(others)
        return messages.log_partition, score, moving, others

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_partition: Tensor | None, of_score: Tensor | None, of_marginals: Tensor | None, _of_others: None
    ) -> tuple[Tensor | None, ...]:
        lengths, is_inside, gold, *scores = ctx.saved_tensors
        rows, last = torch.arange(len(lengths), device=lengths.device), lengths - 1
        if ctx.messages is None:
            unary, pairs, start, stop = _autograd_gradient(lengths, scores, of_partition, of_marginals)
            unary, pairs = unary.permute(1, 2, 0), pairs.contiguous()
        else:
            inside = is_inside.to(ctx.messages.forward.dtype)
            unary, pairs = _scaled_gradient(ctx.messages, inside, of_partition, of_marginals)
            start, stop = unary[0].sum(1), unary[last, :, rows].sum(0)
        if of_score is not None:
            weights = is_inside * of_score  # [L, B]
            unary.scatter_add_(1, gold.T.unsqueeze(1), weights.unsqueeze(1))
            pairs.view(-1).index_add_(0, _moves(gold, len(pairs)).T.flatten(), weights[1:].flatten())
            start.index_add_(0, gold[:, 0], of_score)
            stop.index_add_(0, gold[rows, last], of_score)
        return None, None, None, None, unary.permute(2, 0, 1).to(ctx.dtype), pairs, start, stop


def _scaled_gradient(
    messages: ScaledMessages, inside: Tensor, of_partition: Tensor | None, of_marginals: Tensor | None
) -> tuple[Tensor, Tensor]:
    """By emissions, [L, K, B], and by transitions, [K, K]."""
    if of_marginals is None:
        of_partition = inside.new_zeros(inside.shape[1]) if of_partition is None else of_partition
        return marginals_and_transitions(messages, inside * of_partition)
    n_rows = len(of_marginals)
    unary_moved, pairs_moved = marginal_derivative(messages, of_marginals, inside[:, :n_rows])
    if of_partition is None:
        return torch.nn.functional.pad(unary_moved, (0, inside.shape[1] - n_rows)), pairs_moved
    unary, pairs = marginals_and_transitions(messages, inside * of_partition)
    unary[..., :n_rows] += unary_moved
    return unary, pairs + pairs_moved


def path_score(chain: Chain, labels: Tensor, inside: Tensor) -> Tensor:
    """The unnormalised log-score [B] of labels [B, L], 0 where `inside` [B, L] is False."""
    taken = chain.emissions.gather(2, labels.unsqueeze(-1)).squeeze(-1).double()
    into = chain.transitions.flatten()[_moves(labels, len(chain.start))]
    scores = taken + torch.cat([chain.start[labels[:, :1]], into], dim=1)
    last = labels.gather(1, (chain.lengths - 1).unsqueeze(1)).squeeze(1)
    return torch.where(inside, scores, 0.0).sum(1) + chain.stop[last]


def _moves(labels: Tensor, n_labels: int) -> Tensor:
    """Where the transitions between labels [B, L] stand in the flattened matrix, [B, L-1]."""
    return labels[:, :-1] * n_labels + labels[:, 1:]


def _autograd_gradient(
    lengths: Tensor, scores: Sequence[Tensor], of_partition: Tensor | None, of_marginals: Tensor | None
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [score.detach().double().requires_grad_() for score in scores]
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
        if not outputs:
            return tuple(torch.zeros_like(leaf) for leaf in leaves)
        return torch.autograd.grad(outputs, leaves, gradients, materialize_grads=True)


def log_partition(chain: Chain, mixing: int | None) -> Tensor:
    """log Z [B]."""
    return ChainFunction.apply(mixing, None, None, chain.lengths, *chain[:4])[0]


def log_partition_and_score(chain: Chain, mixing: int | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log Z [B] and the score [B] of labels [B, L] (anything behind a sequence's end)."""
    return ChainFunction.apply(mixing, None, labels, chain.lengths, *chain[:4])[:2]


def log_partition_and_marginals(
    chain: Chain, mixing: int | None, n_rows: int, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """log Z [B], score of labels [B, L] (None without), log P(y_t = k | x) of n_rows sequences and of the others.

    Log-marginals are [n_rows, L, K], and [B - n_rows, L, K] without gradient; -inf where no allowed path passes and
    behind a sequence's end.
    """
    return ChainFunction.apply(mixing, n_rows, labels, chain.lengths, *chain[:4])
