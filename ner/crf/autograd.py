"""What is asked of a chain, as one function with exact gradients: log Z, the score of labels, log-marginals.

The recursions and their derivatives are :mod:`ner.crf.recursions`'s; here they meet autograd, and the log domain where
scores are too far apart for the linear one. What the scores mean is left to :mod:`ner.crf.chain`.
"""

from typing import Any, cast

import torch
from torch import Tensor

from ner.crf.recursions import (
    Chain,
    ScaledMessages,
    grad_of_log_marginals,
    log_marginals_of,
    log_messages,
    marginals_and_transitions,
    scaled_messages,
    unary_marginals,
)


class ChainFunction(torch.autograd.Function):
    """log Z of a chain and, where asked for, the score of labels and log-marginals, with exact gradients.

    The gradient of log Z is the marginals:

        ∂ log Z / ∂ emission_t[k]       = P(y_t = k | x)
        ∂ log Z / ∂ transition[i, j]    = Σ_t P(y_{t-1} = i, y_t = j | x)

    That of the log-marginals is :func:`ner.crf.recursions.grad_of_log_marginals`. In the log domain, on a GPU and for
    scores whose range exceeds float64's exponents, autograd differentiates the recursions themselves.
    """

    @staticmethod
    def forward(
        ctx: Any, mixing: int | None, n_rows: int | None, labels: Tensor | None, lengths: Tensor, *scores: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Run the recursions.

        Args:
            ctx: autograd's context.
            mixing: see :func:`ner.crf.recursions.steps_to_mix`.
            n_rows: of how many sequences the log-marginals carry a gradient; None: no log-marginals are wanted.
            labels: paths to be scored, any value on padding, *Shape:* (batch, length); None: no score is wanted.
            lengths: the sequences' lengths, *Shape:* (batch,).
            scores: emissions, transitions, start and stop of :class:`ner.crf.recursions.Chain`.

        Returns:
            log Z, *Shape:* (batch,).
            score of `labels`, *Shape:* (batch,), or None.
            log-marginals of the first `n_rows` sequences, *Shape:* (n_rows, length, n_labels), or None.
            log-marginals of the others, without gradient, *Shape:* (batch - n_rows, length, n_labels), or None.
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
        ctx.save_for_backward(lengths, inside, gold)
        if ctx.messages is None:
            differentiated = any(ctx.needs_input_grad) and not torch.is_inference_mode_enabled()
            ctx.log_domain = LogDomain(chain, inside.T, n_rows, differentiated)
            log_partition, log_marginals = ctx.log_domain.results()
        else:
            log_partition, log_marginals = ctx.messages.log_partition, None
            if n_rows is not None:
                weights = inside.to(ctx.messages.forward.dtype)
                log_marginals = unary_marginals(ctx.messages, weights).log_().permute(2, 0, 1)
        if log_marginals is None:
            return log_partition, score, None, None
        moving, others = log_marginals[:n_rows], log_marginals[n_rows:]
        ctx.mark_non_differentiable(others)
        return log_partition, score, moving, others

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,
        grad_partition: Tensor | None,
        grad_score: Tensor | None,
        grad_log_marginals: Tensor | None,
        _grad_others: None,
    ) -> tuple[Tensor | None, ...]:
        """Gradients with respect to emissions, transitions, start and stop, of the shapes of those.

        Args:
            ctx: autograd's context.
            grad_partition: gradient of log Z, *Shape:* (batch,).
            grad_score: gradient of the labels' score, *Shape:* (batch,).
            grad_log_marginals: gradient of the log-marginals, *Shape:* (n_rows, length, n_labels).
        """
        lengths, is_inside, gold = ctx.saved_tensors
        rows, last = torch.arange(len(lengths), device=lengths.device), lengths - 1
        if ctx.messages is None:
            gradients = ctx.log_domain.gradients(grad_partition, grad_log_marginals)
            grad_emissions, grad_transitions, grad_start, grad_stop = gradients
            grad_emissions, grad_transitions = grad_emissions.permute(1, 2, 0), grad_transitions.contiguous()
        else:
            inside = is_inside.to(ctx.messages.forward.dtype)
            grad_emissions, grad_transitions = _scaled_gradient(
                ctx.messages, inside, grad_partition, grad_log_marginals
            )
            # A start score is added where the first emission is, a stop score where the last one is.
            grad_start, grad_stop = grad_emissions[0].sum(1), grad_emissions[last, :, rows].sum(0)
        if grad_score is not None:
            weights = is_inside * grad_score  # (length, batch)
            grad_emissions.scatter_add_(1, gold.T.unsqueeze(1), weights.unsqueeze(1))
            moves = _moves(gold, len(grad_transitions))
            grad_transitions.view(-1).index_add_(0, moves.T.flatten(), weights[1:].flatten())
            grad_start.index_add_(0, gold[:, 0], grad_score)
            grad_stop.index_add_(0, gold[rows, last], grad_score)
        return (
            None,
            None,
            None,
            None,
            grad_emissions.permute(2, 0, 1).to(ctx.dtype),
            grad_transitions,
            grad_start,
            grad_stop,
        )


class LogDomain:
    """What is asked of a chain in the log domain, with autograd's graph of it kept for the gradients.

    Args:
        chain: the scores.
        inside: True on tokens, *Shape:* (batch, length).
        n_rows: of how many sequences the log-marginals carry a gradient; None: no log-marginals are wanted.
        differentiated: whether gradients will be asked for.
    """

    def __init__(self, chain: Chain, inside: Tensor, n_rows: int | None, differentiated: bool) -> None:
        with torch.set_grad_enabled(differentiated):
            emissions, transitions, start, stop = (
                score.detach().double().requires_grad_(differentiated) for score in chain[:4]
            )
            self.leaves = [emissions, transitions, start, stop]
            messages = log_messages(Chain(emissions, transitions, start, stop, chain.lengths))
            self.log_partition, self.log_marginals, self.moving = messages.log_partition, None, None
            if n_rows is not None:
                self.log_marginals = log_marginals_of(messages)
                self.moving = self.log_marginals[:n_rows]
        self.inside = inside.unsqueeze(-1)

    def results(self) -> tuple[Tensor, Tensor | None]:
        """log Z and log-marginals, -inf behind a sequence's end, *Shapes:* (batch,), (batch, length, n_labels)."""
        if self.log_marginals is None:
            return self.log_partition.detach(), None
        return self.log_partition.detach(), self.log_marginals.detach().masked_fill(~self.inside, -torch.inf)

    def gradients(self, grad_partition: Tensor | None, grad_log_marginals: Tensor | None) -> tuple[Tensor, ...]:
        """Gradients with respect to emissions, transitions, start and stop, of the shapes of those.

        Args:
            grad_partition: gradient of log Z, *Shape:* (batch,).
            grad_log_marginals: gradient of the first sequences' log-marginals, *Shape:* (n_rows, length, n_labels).
        """
        outputs, gradients = [], []
        if grad_partition is not None:
            outputs.append(self.log_partition)
            gradients.append(grad_partition)
        if grad_log_marginals is not None and self.moving is not None:
            impossible = self.moving.isinf() | ~self.inside[: len(self.moving)]
            outputs.append(self.moving)
            gradients.append(grad_log_marginals.masked_fill(impossible, 0.0))
        if not outputs:
            return tuple(torch.zeros_like(leaf) for leaf in self.leaves)
        return torch.autograd.grad(outputs, self.leaves, gradients, retain_graph=True, materialize_grads=True)


def _scaled_gradient(
    messages: ScaledMessages, inside: Tensor, grad_partition: Tensor | None, grad_log_marginals: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients from the messages of the linear domain.

    Args:
        messages: both directions'.
        inside: 1 on tokens, 0 behind a sequence's end, *Shape:* (length, batch).
        grad_partition: gradient of log Z, *Shape:* (batch,).
        grad_log_marginals: gradient of the first sequences' log-marginals, *Shape:* (n_rows, length, n_labels).

    Returns:
        gradient of the emissions, *Shape:* (length, n_labels, batch).
        gradient of the transitions, *Shape:* (n_labels, n_labels).
    """
    if grad_log_marginals is None:
        grad_partition = inside.new_zeros(inside.shape[1]) if grad_partition is None else grad_partition
        return marginals_and_transitions(messages, inside * grad_partition)
    n_rows = len(grad_log_marginals)
    grad_emissions, grad_transitions = grad_of_log_marginals(messages, grad_log_marginals, inside[:, :n_rows])
    if grad_partition is None:
        return torch.nn.functional.pad(grad_emissions, (0, inside.shape[1] - n_rows)), grad_transitions
    unary, pairs = marginals_and_transitions(messages, inside * grad_partition)
    unary[..., :n_rows] += grad_emissions
    return unary, pairs + grad_transitions


def path_score(chain: Chain, labels: Tensor, inside: Tensor) -> Tensor:
    """The unnormalised log-score of paths: start[y_1] + Σ_t emission_t[y_t] + Σ_t transition[y_{t-1}, y_t] + stop[y_n].

    Args:
        chain: the scores.
        labels: the paths, 0 on padding, *Shape:* (batch, length).
        inside: True on tokens, *Shape:* (batch, length).

    Returns:
        scores, *Shape:* (batch,).
    """
    taken = chain.emissions.gather(2, labels.unsqueeze(-1)).squeeze(-1).double()
    into = chain.transitions.flatten()[_moves(labels, len(chain.start))]
    scores = taken + torch.cat([chain.start[labels[:, :1]], into], dim=1)
    last = labels.gather(1, (chain.lengths - 1).unsqueeze(1)).squeeze(1)
    return torch.where(inside, scores, 0.0).sum(1) + chain.stop[last]


def _moves(labels: Tensor, n_labels: int) -> Tensor:
    """Positions of the labels' transitions in the flattened matrix, *Shape:* (batch, length - 1)."""
    return labels[:, :-1] * n_labels + labels[:, 1:]


def log_partition(chain: Chain, mixing: int | None) -> Tensor:
    """log Z of a chain.

    Args:
        chain: the scores.
        mixing: see :func:`ner.crf.recursions.steps_to_mix`.

    Returns:
        log Z, *Shape:* (batch,).
    """
    partition: Tensor = _run(chain, mixing, None, None)[0]
    return partition


def log_partition_and_score(chain: Chain, mixing: int | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """log Z of a chain, and the score of paths.

    Args:
        chain: the scores.
        mixing: see :func:`ner.crf.recursions.steps_to_mix`.
        labels: the paths, any value on padding, *Shape:* (batch, length).

    Returns:
        log Z, *Shape:* (batch,).
        scores, *Shape:* (batch,).
    """
    return _run(chain, mixing, None, labels)[:2]


def log_partition_and_marginals(
    chain: Chain, mixing: int | None, n_rows: int, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """log Z of a chain, the score of paths, and log-marginals log P(y_t = k | x).

    Args:
        chain: the scores.
        mixing: see :func:`ner.crf.recursions.steps_to_mix`.
        n_rows: the log-marginals of so many sequences carry a gradient.
        labels: the paths, any value on padding, *Shape:* (batch, length); None: no score is wanted.

    Returns:
        log Z, *Shape:* (batch,).
        scores, *Shape:* (batch,), or None.
        log-marginals of the first sequences, *Shape:* (n_rows, length, n_labels); -inf where no allowed path passes and
        behind a sequence's end.
        log-marginals of the others, without gradient, *Shape:* (batch - n_rows, length, n_labels).
    """
    return _run(chain, mixing, n_rows, labels)


def _run(chain: Chain, mixing: int | None, n_rows: int | None, labels: Tensor | None) -> tuple[Any, Any, Any, Any]:
    found = ChainFunction.apply(mixing, n_rows, labels, chain.lengths, *chain[:4])  # type: ignore[no-untyped-call]
    return cast("tuple[Any, Any, Any, Any]", found)
