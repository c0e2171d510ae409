"""What fixed teachers say of tweets, and how far a student's view lies from it.

Teachers are saved taggers, read once and averaged (:mod:`ner.training.teachers`); the moving cross-modal view as a
teacher is :mod:`ner.models.alignment`'s. The weights of losses are left to :mod:`ner.models.objective`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from ner.crf.chain import LinearChainCRF
from ner.crf.expectations import Expectations, cross_entropy
from ner.models.alignment import softened_kl

Weigh = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class PostLesson:
    """What teachers say of one post, averaged.

    Attributes:
        log_probabilities: of labels, -inf where impossible, *Shape:* (length, n_labels).
        transitions: how often each is expected, *Shape:* (n_labels, n_labels); None but for the form `sequence`.
        entropy: the mean of the teachers'; 0 but for that form.
    """

    log_probabilities: np.ndarray
    transitions: np.ndarray | None = None
    entropy: float = 0.0


class Lesson(TypedDict):
    """What teachers say of B tweets of at most L tokens."""

    log_probabilities: Tensor
    """float32, -inf where impossible and on padding, *Shape:* (B, L, n_labels)."""
    transitions: NotRequired[Tensor]
    """float32, for the form `sequence`, *Shape:* (B, n_labels, n_labels)."""
    entropy: NotRequired[Tensor]
    """float32, for the form `sequence`, *Shape:* (B,)."""


def collate_lessons(lessons: Sequence[PostLesson]) -> Lesson:
    """Pad what is said of posts to the longest of the batch."""
    longest = max(len(each.log_probabilities) for each in lessons)
    n_labels = lessons[0].log_probabilities.shape[1]
    padded = np.full((len(lessons), longest, n_labels), -np.inf, np.float32)
    for row, each in enumerate(lessons):
        padded[row, : len(each.log_probabilities)] = each.log_probabilities
    batch = Lesson(log_probabilities=torch.from_numpy(padded))
    taken = [each.transitions for each in lessons if each.transitions is not None]
    if taken:
        batch["transitions"] = torch.from_numpy(np.stack(taken).astype(np.float32))
        batch["entropy"] = torch.tensor([each.entropy for each in lessons])
    return batch


@dataclass(frozen=True, slots=True)
class Teaching:
    """How a student learns from fixed teachers: the section `train.teacher` of params.yaml, without the teachers."""

    views: tuple[str, ...]
    weight: float
    temperature: float
    form: str
    confidence: str
    threshold: float

    @property
    def needs_marginals(self) -> bool:
        """Whether the student's log-marginals are looked at."""
        return self.form == "marginal" or self.confidence == "surer"

    def divergences(
        self, crf: LinearChainCRF, lesson: Lesson, emissions: Tensor, log_marginals: Tensor | None, mask: Tensor
    ) -> Tensor:
        """How far a student's view lies from what teachers say, T as given; its own T² is left out.

        marginal: Σ_tokens w · KL(p̄ ‖ q) of the teachers' mean marginals and the student's, both flattened by T, as in
        ITA's alignment (:func:`ner.models.alignment.marginal`).

        emission: likewise, of the softmax of emissions.

        sequence: w̄ times the mean of KL(p_m ‖ q) over the teachers m, of distributions over label sequences, every
        score divided by T. It is KL(p̄ ‖ q) of their mixture p̄ plus a constant (how far the teachers lie from p̄), so
        its gradient is exactly that of the mixture; w̄ is the mean of w over tokens.

        Args:
            crf: the student's chain.
            lesson: what the teachers say.
            emissions: the student's, *Shape:* (B, L, n_labels).
            log_marginals: the student's, where :attr:`needs_marginals`, *Shape:* (B, L, n_labels).
            mask: True on tokens, *Shape:* (B, L).

        Returns:
            *Shape:* (B,).
        """
        weights = self._weights(lesson, log_marginals, mask)
        if self.form == "sequence":
            expected = Expectations(lesson["log_probabilities"], lesson["transitions"], lesson["entropy"])
            entropies = cross_entropy(expected, crf, emissions, mask, self.temperature)
            divergences = (entropies - expected.entropy).to(lesson["entropy"].dtype)
            return divergences if weights is None else divergences * weights.sum(1) / mask.sum(1)
        teacher = lesson["log_probabilities"]
        if self.form == "marginal":
            assert log_marginals is not None, "needs_marginals"
            student, possible = log_marginals, log_marginals > -torch.inf
        else:
            student, possible = emissions, mask.unsqueeze(-1)
        return softened_kl(teacher.clamp_min(-1e30), student, possible, self.temperature, weights)

    def _weights(self, lesson: Lesson, log_marginals: Tensor | None, mask: Tensor) -> Tensor | None:
        if self.confidence == "none":
            return None
        student = lesson["log_probabilities"] if log_marginals is None else log_marginals.detach()
        weights = CONFIDENCE[self.confidence](lesson["log_probabilities"], student, mask, self.threshold)
        return weights.masked_fill(~mask, 0.0)


def threshold(teacher: Tensor, student: Tensor, mask: Tensor, least: float) -> Tensor:
    """1 where the teacher's likeliest label has a probability of `least` or more, else 0.

    (Liang et al., KDD 2020, "BOND: BERT-assisted open-domain named entity recognition with distant supervision", of
    tokens; Sohn et al., NeurIPS 2020, "FixMatch", of images.)

    Args:
        teacher: its log-probabilities, *Shape:* (B, L, n_labels).
        student: the student's, *Shape:* (B, L, n_labels).
        mask: True on tokens, *Shape:* (B, L).
        least: a probability.

    Returns:
        *Shape:* (B, L).
    """
    return (teacher.amax(-1) >= math.log(max(least, 1e-30))).to(teacher.dtype)


def certainty(teacher: Tensor, student: Tensor, mask: Tensor, least: float) -> Tensor:
    """1 - H(teacher) / log n_labels: 1 where it is certain, 0 where all labels are alike; arguments of `threshold`.

    (Iscen et al., CVPR 2019, "Label propagation for deep semi-supervised learning", equation 11.)
    """
    return 1.0 - _entropy(teacher) / math.log(teacher.shape[-1])


def surer(teacher: Tensor, student: Tensor, mask: Tensor, least: float) -> Tensor:
    """1 where the teacher's entropy is below the student's, else 0; arguments of `threshold`.

    (After Ke et al., ICCV 2019, "Dual student: breaking the limits of the teacher in semi-supervised learning", where
    of two models the one whose prediction is the more stable teaches the other; here the one that is surer.)
    """
    return (_entropy(teacher) < _entropy(student)).to(teacher.dtype)


CONFIDENCE: dict[str, Weigh] = {"threshold": threshold, "certainty": certainty, "surer": surer}


def _entropy(log_probabilities: Tensor) -> Tensor:
    return -(log_probabilities.exp() * log_probabilities.clamp_min(-1e30)).sum(-1)
