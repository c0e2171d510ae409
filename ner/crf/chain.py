"""A linear-chain CRF over the labels of a token sequence, batched over variable lengths.

The likelihood, marginals, divergences and best paths of one chain; the recursions behind them, and why they are exact
and safe for any scores, stand in :mod:`ner.crf.recursions`. What the labels mean is left to :mod:`ner.bioes`.

Masks are True on a sequence's tokens and False on the padding behind them; a sequence has at least one token. Shapes
are checked everywhere, the values of masks and labels on a CPU alone (:mod:`ner.crf.validation`). Whatever autocast
says, scores are computed in float64 and returned in float32, or in float64 where the emissions are.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ner.crf.autograd import log_partition, log_partition_and_marginals, log_partition_and_score, path_score
from ner.crf.recursions import IMPOSSIBLE, Chain, log_messages, path_log_probabilities, steps_to_mix
from ner.crf.validation import check_shapes, check_values


class LinearChainCRF(nn.Module):
    """p(y | x) ∝ exp(start[y_1] + Σ_t emission_t[y_t] + Σ_t transition[y_{t-1}, y_t] + stop[y_n]).

    (Lafferty, McCallum and Pereira 2001, "Conditional random fields".)

    Args:
        n_labels: how many labels there are.
        allowed: which transitions may occur, bool, *Shape:* (n_labels, n_labels), which labels may begin and which may
            end a sequence, bool, *Shape:* (n_labels,) (:func:`ner.bioes.allowed_transitions`); None allows all. What is
            not allowed is never decoded.
        exclude_forbidden: whether what is not allowed also counts as impossible in log Z, likelihood and marginals.
            Off, the model learns to avoid it.
    """

    allowed_transitions: Tensor
    allowed_start: Tensor
    allowed_stop: Tensor

    def __init__(
        self, n_labels: int, allowed: tuple[Tensor, Tensor, Tensor] | None = None, exclude_forbidden: bool = True
    ) -> None:
        super().__init__()
        if allowed is None:
            every = torch.ones(n_labels, dtype=torch.bool)
            allowed = (every.expand(n_labels, n_labels).clone(), every.clone(), every.clone())
        self.exclude_forbidden = exclude_forbidden
        self.transitions = nn.Parameter(torch.zeros(n_labels, n_labels))  # from row to column
        self.start = nn.Parameter(torch.zeros(n_labels))
        self.stop = nn.Parameter(torch.zeros(n_labels))
        self.register_buffer("allowed_transitions", allowed[0])
        self.register_buffer("allowed_start", allowed[1])
        self.register_buffer("allowed_stop", allowed[2])
        in_training = allowed[0] if exclude_forbidden else torch.ones_like(allowed[0])
        self._mixing = steps_to_mix(in_training)
        self._all_allowed = all(bool(each.all()) for each in allowed)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small random transitions, so that no two labels start out alike."""
        for parameter in (self.transitions, self.start, self.stop):
            nn.init.uniform_(parameter, -0.1, 0.1)

    def log_partition(self, emissions: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-sum-exp over all label paths (log Z).

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            mask: True on tokens, False on padding, *Shape:* (batch, length).
            temperature: divides every score.

        Returns:
            log Z, *Shape:* (batch,). Its gradient with respect to `emissions` is the marginals.

        Raises:
            ValueError: shapes, devices or types disagree; on a CPU also: a mask has a hole or no token.
        """
        self._check(emissions, mask)
        chain = self._unchecked_chain(emissions, mask, temperature)
        return log_partition(chain, self._mixing).to(_result_dtype(emissions))

    def log_partition_and_marginals(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """log Z and the log-marginals log P(y_t = k | x), from one forward-backward pass, both differentiable.

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            mask: True on tokens, False on padding, *Shape:* (batch, length).

        Returns:
            log Z, *Shape:* (batch,).
            log-marginals, *Shape:* (batch, length, n_labels); -inf for a label that no allowed path visits there, and
            on padding.

        Raises:
            ValueError: as :meth:`log_partition`.
        """
        chain = self._chain(emissions, mask)
        partition, _, log_marginals, _ = log_partition_and_marginals(chain, self._mixing, len(emissions))
        dtype = _result_dtype(emissions)
        return partition.to(dtype), log_marginals.to(dtype)

    def log_likelihood_and_marginals(
        self, emissions: Tensor, labels: Tensor, mask: Tensor, *, detach_marginals: bool
    ) -> tuple[Tensor, Tensor]:
        """Log-likelihoods of labels and log-marginals, from one forward-backward pass.

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            labels: gold labels, any value on padding, *Shape:* (batch, length).
            mask: True on tokens, False on padding, *Shape:* (batch, length).
            detach_marginals: whether the log-marginals carry no gradient, which saves half of their cost.

        Returns:
            log-likelihoods, *Shape:* (batch,).
            log-marginals, as :meth:`log_partition_and_marginals` has them, *Shape:* (batch, length, n_labels).

        Raises:
            ValueError: as :meth:`two_views`.
        """
        chain = self._chain(emissions, mask, labels)
        n_rows = 0 if detach_marginals else len(emissions)
        partition, score, moving, others = log_partition_and_marginals(chain, self._mixing, n_rows, labels)
        assert score is not None, "labels have a score"
        dtype = _result_dtype(emissions)
        return (score - partition).to(dtype), (others if detach_marginals else moving).to(dtype)

    def two_views(
        self, student: Tensor, teacher: Tensor, labels: Tensor, mask: Tensor, *, detach_teacher: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihoods of labels and log-marginals of two views' emissions of the same sequences.

        One pass for both: its cost lies in the number of steps more than in the batch. The likelihoods carry
        gradients for both views.

        Args:
            student: label scores of one view, *Shape:* (batch, length, n_labels).
            teacher: label scores of the other view, *Shape:* (batch, length, n_labels).
            labels: gold labels, any value on padding, *Shape:* (batch, length).
            mask: True on tokens, False on padding, *Shape:* (batch, length).
            detach_teacher: whether the teacher's log-marginals carry no gradient, which saves half of their cost.

        Returns:
            log-likelihoods of the student's and of the teacher's view, *Shape:* (2, batch).
            the student's log-marginals, *Shape:* (batch, length, n_labels).
            the teacher's log-marginals, *Shape:* (batch, length, n_labels).

        Raises:
            ValueError: as :meth:`log_partition`; on a CPU also: a label of a token is out of range.
        """
        partition, score, of_student, of_teacher = self._two_views(student, teacher, labels, mask, detach_teacher)
        return (score - partition).view(2, -1).to(of_student.dtype), of_student, of_teacher

    def two_view_marginals(
        self, student: Tensor, teacher: Tensor, mask: Tensor, *, detach_teacher: bool
    ) -> tuple[Tensor, Tensor]:
        """The log-marginals of :meth:`two_views` alone.

        Args:
            student: label scores of one view, *Shape:* (batch, length, n_labels).
            teacher: label scores of the other view, *Shape:* (batch, length, n_labels).
            mask: True on tokens, False on padding, *Shape:* (batch, length).
            detach_teacher: whether the teacher's log-marginals carry no gradient.

        Returns:
            the student's log-marginals, *Shape:* (batch, length, n_labels).
            the teacher's log-marginals, *Shape:* (batch, length, n_labels).

        Raises:
            ValueError: as :meth:`log_partition`.
        """
        return self._two_views(student, teacher, None, mask, detach_teacher)[2:]

    def _two_views(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None, mask: Tensor, detach_teacher: bool
    ) -> tuple[Any, Any, Tensor, Tensor]:
        self._check_two(student, teacher, mask, labels)
        n_sequences, emissions = len(student), torch.cat([student, teacher])
        partition, score, moving, others = log_partition_and_marginals(
            self._unchecked_chain(emissions, mask.repeat(2, 1)),
            self._mixing,
            n_sequences if detach_teacher else 2 * n_sequences,
            None if labels is None else labels.repeat(2, 1),
        )
        of_student, of_teacher = (moving, others) if detach_teacher else moving.tensor_split(2)
        dtype = _result_dtype(emissions)
        return partition, score, of_student.to(dtype), of_teacher.to(dtype)

    def score(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """The unnormalised log-score of label paths.

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            labels: the paths, any value on padding, *Shape:* (batch, length).
            mask: True on tokens, False on padding, *Shape:* (batch, length).

        Returns:
            scores, *Shape:* (batch,).

        Raises:
            ValueError: as :meth:`two_views`.
        """
        chain = self._chain(emissions, mask, labels)
        return path_score(chain, labels.masked_fill(~mask, 0), mask).to(_result_dtype(emissions))

    def log_likelihood(self, emissions: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """log p(labels | x) = score - log Z.

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            labels: the paths, any value on padding, *Shape:* (batch, length).
            mask: True on tokens, False on padding, *Shape:* (batch, length).

        Returns:
            log-likelihoods, -inf for a path that takes an excluded transition, *Shape:* (batch,).

        Raises:
            ValueError: as :meth:`two_views`.
        """
        chain = self._chain(emissions, mask, labels)
        partition, score = log_partition_and_score(chain, self._mixing, labels)
        return (score - partition).to(_result_dtype(emissions))

    def marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """P(y_t = k | x), differentiable.

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            mask: True on tokens, False on padding, *Shape:* (batch, length).

        Returns:
            probabilities, 0 on padding, *Shape:* (batch, length, n_labels).

        Raises:
            ValueError: as :meth:`log_partition`.
        """
        return self.log_partition_and_marginals(emissions, mask)[1].exp()

    def pairwise_marginals(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """P(y_{t-1} = i, y_t = j | x), differentiable by autograd.

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            mask: True on tokens, False on padding, *Shape:* (batch, length).

        Returns:
            probabilities, 0 where either position is padding, *Shape:* (batch, length - 1, n_labels, n_labels).

        Raises:
            ValueError: as :meth:`log_partition`.
        """
        chain = self._chain(emissions, mask)
        messages = log_messages(chain)
        joint = messages.forward[:, :-1, :, None] + chain.transitions + messages.backward[:, 1:, None, :]
        joint = joint - messages.log_partition[:, None, None, None]
        return joint.masked_fill(~mask[:, 1:, None, None], -torch.inf).exp().to(_result_dtype(emissions))

    def viterbi(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The best allowed path: best_t[j] = emission_t[j] + max_i (best_{t-1}[i] + transition[i, j]), read backwards.

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            mask: True on tokens, False on padding, *Shape:* (batch, length).

        Returns:
            labels, 0 on padding, *Shape:* (batch, length).
            the paths' unnormalised log-scores, *Shape:* (batch,).

        Raises:
            ValueError: as :meth:`log_partition`.
        """
        self._check(emissions, mask)
        with torch.no_grad():
            dtype = _result_dtype(emissions)
            positions = emissions.to(dtype).masked_fill(~mask.unsqueeze(-1), 0.0).transpose(0, 1).contiguous()
            into = self.transitions.to(dtype).masked_fill(~self.allowed_transitions, -torch.inf).T.contiguous()
            start = self.start.to(dtype).masked_fill(~self.allowed_start, -torch.inf)
            stop = self.stop.to(dtype).masked_fill(~self.allowed_stop, -torch.inf)
            length, batch, n_labels = positions.shape
            best = torch.empty_like(positions)
            bests, emitted = best.unbind(0), positions.unbind(0)
            torch.add(emitted[0], start, out=bests[0])
            candidates = positions.new_empty(batch, n_labels, n_labels)  # (batch, to, from)
            for t in range(1, length):
                torch.add(bests[t - 1].unsqueeze(1), into, out=candidates)
                torch.amax(candidates, dim=2, out=bests[t])
                bests[t].add_(emitted[t])
            last = mask.sum(1) - 1
            rows = torch.arange(batch, device=mask.device)
            scores, label = (best[last, rows] + stop).max(-1)
            # Only the transitions into the labels on the best path are looked at again, not all K x K of them.
            path = label.new_zeros(length, batch)
            path[last, rows] = label
            ends_here = (last == torch.arange(length, device=mask.device)[:, None]).unbind(0)
            ending = label
            for t in range(length - 2, -1, -1):
                label = torch.where(ends_here[t], ending, (bests[t] + into[label]).argmax(-1))
                path[t] = label
            return path.T.masked_fill(~mask, 0), scores

    def span_log_probability(self, emissions: Tensor, mask: Tensor, labels: Tensor, spans: Tensor) -> Tensor:
        """log P(the tokens of a span carry exactly these labels | x), all else summed out: an entity's confidence.

        Computed along the chain: P(y_a) · Π P(y_t | y_{t-1}), each factor from the messages.

        Args:
            emissions: label scores, *Shape:* (batch, length, n_labels).
            mask: True on tokens, False on padding, *Shape:* (batch, length).
            labels: the labels whose probability is wanted, such as the best path's, *Shape:* (batch, length).
            spans: row of the batch, first token, token after the last, int64, *Shape:* (n_spans, 3).

        Returns:
            log-probabilities, *Shape:* (n_spans,).

        Raises:
            ValueError: as :meth:`two_views`.
        """
        with torch.no_grad():
            chain = self._chain(emissions, mask, labels)
            opening, step = path_log_probabilities(chain, self._mixing, labels)
            rows, first, end = spans.unbind(-1)
            step = step.masked_fill(~mask[:, 1:], 0.0).clamp_min(IMPOSSIBLE)
            along = torch.cat([step.new_zeros(len(step), 1), step.cumsum(1)], dim=1)  # (batch, length)
            result = opening[rows, first] + along[rows, end - 1] - along[rows, first]
            return result.clamp_max(0.0).to(_result_dtype(emissions))

    def kl(self, teacher: Tensor, student: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """KL(p ‖ q) between the distributions over label sequences that two sets of emissions give this chain.

        With shared transitions, E_p[score_p - score_q] needs p's unary marginals alone:
        Σ_t Σ_k p_t(k) (teacher_t[k] - student_t[k]) - log Z_p + log Z_q.

        Differentiable in everything; but where the teacher's emissions carry no gradient, p is a constant as a whole,
        and the transitions are moved as q's alone. That asks only for constant marginals: -log Z_p then gives the
        transitions -E_p[how often each is taken], just what -E_p[score_q] would.

        Args:
            teacher: label scores that give p, *Shape:* (batch, length, n_labels).
            student: label scores that give q, *Shape:* (batch, length, n_labels).
            mask: True on tokens, False on padding, *Shape:* (batch, length).
            temperature: divides every score of both chains.

        Returns:
            divergences, *Shape:* (batch,).

        Raises:
            ValueError: as :meth:`log_partition`.
        """
        self._check_two(teacher, student, mask)
        emissions = torch.cat([teacher, student])
        chain = self._unchecked_chain(emissions, mask.repeat(2, 1), temperature)
        n_rows = len(teacher)
        partition, _, log_marginals, _ = log_partition_and_marginals(chain, self._mixing, n_rows)
        scores = chain.emissions.double().masked_fill(~mask.repeat(2, 1).unsqueeze(-1), 0.0)
        difference = scores[:n_rows] - scores[n_rows:]
        probabilities = log_marginals[:n_rows].exp()
        if not teacher.requires_grad:
            probabilities = probabilities.detach()
        expected = (probabilities * difference).sum((1, 2))
        return (expected - partition[:n_rows] + partition[n_rows:]).to(_result_dtype(emissions))

    def _check(self, emissions: Tensor, mask: Tensor, labels: Tensor | None = None) -> None:
        check_shapes(len(self.start), emissions, mask, labels)
        if mask.device.type == "cpu":  # to look at values would make a GPU's host wait
            check_values(len(self.start), mask, labels)

    def _check_two(self, one: Tensor, other: Tensor, mask: Tensor, labels: Tensor | None = None) -> None:
        self._check(one, mask, labels)
        if one.shape != other.shape:
            raise ValueError(f"emissions of both views must match, got {tuple(one.shape)} and {tuple(other.shape)}")

    def _chain(self, emissions: Tensor, mask: Tensor, labels: Tensor | None = None) -> Chain:
        self._check(emissions, mask, labels)
        return self._unchecked_chain(emissions, mask)

    def _unchecked_chain(self, emissions: Tensor, mask: Tensor, temperature: float = 1.0) -> Chain:
        emissions = emissions.to(_result_dtype(emissions))
        transitions, start, stop = (score.double() for score in (self.transitions, self.start, self.stop))
        if temperature != 1.0:
            transitions, start, stop = transitions / temperature, start / temperature, stop / temperature
            emissions = emissions.double() / temperature
        if self.exclude_forbidden and not self._all_allowed:
            transitions = transitions.masked_fill(~self.allowed_transitions, -torch.inf)
            start = start.masked_fill(~self.allowed_start, -torch.inf)
            stop = stop.masked_fill(~self.allowed_stop, -torch.inf)
        return Chain(emissions, transitions, start, stop, mask.sum(1))


def _result_dtype(emissions: Tensor) -> torch.dtype:
    return torch.float64 if emissions.dtype == torch.float64 else torch.float32
