"""The loss of both views over one CRF: two likelihoods and their alignment, of both at once or one after the other.

The alignment's forms are :mod:`ner.models.alignment`'s; where emissions come from, and which of the two ways is taken,
is left to :mod:`ner.models.base`.
"""

from dataclasses import dataclass

from torch import Tensor

from ner.crf.chain import LinearChainCRF
from ner.models.alignment import FORMS, TwoViews
from ner.models.config import TaggerConfig


@dataclass(frozen=True, slots=True)
class Target:
    """What a detached teacher gives its student."""

    emissions: Tensor
    """*Shape:* (batch, length, n_labels)."""
    log_marginals: Tensor
    """-inf where impossible and on padding, *Shape:* (batch, length, n_labels)."""
    weights: Tensor | None = None
    """how much each tweet's alignment counts, without gradient, *Shape:* (batch,); None: 1 each."""


@dataclass(frozen=True, slots=True)
class Objective:
    """w_T · NLL_T + w_IT · NLL_IT + w_KL · T² · divergence; all means over tweets.

    Each method returns its part of the loss and, by the names that logs give them, its terms before their weights, all
    of *Shape:* (). Emissions are of *Shape:* (batch, length, n_labels), labels and masks of *Shape:* (batch, length).
    """

    crf: LinearChainCRF
    alignment: str
    """a form of :mod:`ner.models.alignment`, or none."""
    temperature: float
    weight_text_only: float
    weight_cross_modal: float
    weight_alignment: float

    @classmethod
    def of(cls, crf: LinearChainCRF, config: TaggerConfig, alignment_scale: float) -> "Objective":
        """That of a tagger's config, with a factor on the alignment's weight."""
        weights = config.weight_text_only, config.weight_cross_modal, alignment_scale * config.weight_alignment
        return cls(crf, config.alignment, config.temperature, *weights)

    def of_both(
        self,
        student: Tensor,
        teacher: Tensor,
        labels: Tensor,
        mask: Tensor,
        weights: Tensor | None = None,
        *,
        detach_teacher: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The whole loss, both views in one recursion.

        Args:
            student: emissions of the text-only view.
            teacher: emissions of the cross-modal view.
            labels: gold labels' indices.
            mask: True on tokens.
            weights: how much each tweet's alignment counts, *Shape:* (batch,); None: 1 each.
            detach_teacher: whether the alignment moves the student alone.
        """
        log_likelihood, student_log_marginals, teacher_log_marginals = self.crf.two_views(
            student, teacher, labels, mask, detach_teacher=detach_teacher
        )
        nll_text_only, nll_cross_modal = -log_likelihood.mean(1)
        loss = self.weight_text_only * nll_text_only + self.weight_cross_modal * nll_cross_modal
        terms = {"nll_text_only": nll_text_only, "nll_cross_modal": nll_cross_modal}
        target = Target(teacher.detach() if detach_teacher else teacher, teacher_log_marginals, weights)
        return self._aligned(loss, terms, student, student_log_marginals, target, mask)

    def of_teacher(
        self, teacher: Tensor, labels: Tensor, mask: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Target]:
        """The cross-modal view's part, and what a detached teacher gives its student."""
        log_likelihood, log_marginals = self.crf.log_likelihood_and_marginals(
            teacher, labels, mask, detach_marginals=True
        )
        nll = -log_likelihood.mean()
        return self.weight_cross_modal * nll, {"nll_cross_modal": nll}, Target(teacher.detach(), log_marginals, weights)

    def of_student(
        self, student: Tensor, target: Target, labels: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The text-only view's part, the alignment included."""
        log_likelihood, log_marginals = self.crf.log_likelihood_and_marginals(
            student, labels, mask, detach_marginals=False
        )
        nll = -log_likelihood.mean()
        return self._aligned(self.weight_text_only * nll, {"nll_text_only": nll}, student, log_marginals, target, mask)

    def of_unlabelled(
        self, student: Tensor, teacher: Tensor, mask: Tensor, weights: Tensor | None = None, *, detach_teacher: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The alignment of tweets that have no labels; arguments as of :meth:`of_both`."""
        of_student, of_teacher = self.crf.two_view_marginals(student, teacher, mask, detach_teacher=detach_teacher)
        target = Target(teacher.detach() if detach_teacher else teacher, of_teacher, weights)
        return self._aligned(student.new_zeros(()), {}, student, of_student, target, mask)

    def _aligned(
        self,
        loss: Tensor,
        terms: dict[str, Tensor],
        student: Tensor,
        log_marginals: Tensor,
        target: Target,
        mask: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms with those of the alignment, if there is one."""
        if self.alignment == "none":
            return loss, terms
        views = TwoViews(target.emissions, student, target.log_marginals, log_marginals, mask)
        divergences = FORMS[self.alignment](self.crf, views, self.temperature)
        divergence = (divergences if target.weights is None else target.weights * divergences).mean()
        loss = loss + self.weight_alignment * self.temperature**2 * divergence
        return loss, {**terms, "alignment": divergence}
