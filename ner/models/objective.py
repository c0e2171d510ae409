"""The loss of both views over one CRF: two likelihoods, their alignment, and what fixed teachers say.

Forms of the alignment are :mod:`ner.models.alignment`'s, those of fixed teachers :mod:`ner.models.lessons`'; where
emissions come from, and whether both views come at once or one after the other, is left to :mod:`ner.models.losses`.
"""

from dataclasses import dataclass

from torch import Tensor

from ner.crf.chain import LinearChainCRF
from ner.models.alignment import FORMS, TwoViews
from ner.models.config import TaggerConfig
from ner.models.lessons import Lesson, Teaching


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
class Scales:
    """Factors on the weights of terms that other tweets have as well, or that rise in the course of a training."""

    alignment: float = 1.0
    teacher: float = 1.0
    contexts: float = 1.0

    def times(self, shares: "Scales") -> "Scales":
        """Those of a part of the tweets."""
        return Scales(self.alignment * shares.alignment, self.teacher * shares.teacher, self.contexts * shares.contexts)

    @property
    def rest(self) -> "Scales":
        """What is missing to 1."""
        return Scales(1 - self.alignment, 1 - self.teacher, 1 - self.contexts)


@dataclass(frozen=True, slots=True)
class Objective:
    """w_T · NLL_T + w_IT · NLL_IT + w_KL · T² · divergence + w_F · T_F² · divergence from fixed teachers; all means.

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
    weight_teacher: float = 0.0
    teaching: Teaching | None = None
    lesson: Lesson | None = None
    """what fixed teachers say of the batch's tweets, where they say something."""

    @classmethod
    def of(cls, crf: LinearChainCRF, config: TaggerConfig, scales: Scales, lesson: Lesson | None = None) -> "Objective":
        """That of a tagger's config, for a batch of which fixed teachers say something or not."""
        weights = config.weight_text_only, config.weight_cross_modal, scales.alignment * config.weight_alignment
        if config.teacher is None or lesson is None:
            return cls(crf, config.alignment, config.temperature, *weights)
        options = dict(config.teacher)
        teaching = Teaching(**{**options, "views": tuple(options["views"])})
        taught = scales.teacher * teaching.weight, teaching, lesson
        return cls(crf, config.alignment, config.temperature, *weights, *taught)

    def teaches(self, view: str) -> bool:
        """Whether a view of the batch learns from fixed teachers."""
        return self.teaching is not None and view in self.teaching.views

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
            student, teacher, labels, mask, detach_teacher=detach_teacher and not self.teaches("cross_modal")
        )
        nll_text_only, nll_cross_modal = -log_likelihood.mean(1)
        loss = self.weight_text_only * nll_text_only + self.weight_cross_modal * nll_cross_modal
        terms = {"nll_text_only": nll_text_only, "nll_cross_modal": nll_cross_modal}
        target = _target(teacher, teacher_log_marginals, weights, detach_teacher)
        loss, terms = self._aligned(loss, terms, student, student_log_marginals, target, mask)
        loss, terms = self._taught(loss, terms, "text_only", student, student_log_marginals, mask)
        return self._taught(loss, terms, "cross_modal", teacher, teacher_log_marginals, mask)

    def of_teacher(
        self, teacher: Tensor, labels: Tensor, mask: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor], Target]:
        """The cross-modal view's part, and what a detached teacher gives its student."""
        loss, terms, log_marginals = self._of_one("cross_modal", self.weight_cross_modal, teacher, labels, mask)
        return loss, terms, Target(teacher.detach(), log_marginals.detach(), weights)

    def of_student(
        self, student: Tensor, target: Target, labels: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The text-only view's part, the alignment included."""
        log_likelihood, log_marginals = self.crf.log_likelihood_and_marginals(
            student, labels, mask, detach_marginals=False
        )
        nll = -log_likelihood.mean()
        loss, terms = self._aligned(
            self.weight_text_only * nll, {"nll_text_only": nll}, student, log_marginals, target, mask
        )
        return self._taught(loss, terms, "text_only", student, log_marginals, mask)

    def of_single(self, view: str, emissions: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a tagger that is trained on one view alone."""
        if not self.teaches(view):
            nll = -self.crf.log_likelihood(emissions, labels, mask).mean()
            return nll, {f"nll_{view}": nll}
        return self._of_one(view, 1.0, emissions, labels, mask)[:2]

    def of_unlabelled(
        self,
        student: Tensor | None,
        teacher: Tensor | None,
        mask: Tensor,
        weights: Tensor | None = None,
        *,
        detach_teacher: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What tweets without labels teach; arguments as of :meth:`of_both`, of a view that learns nothing None."""
        if self.alignment != "none" and student is not None and teacher is not None:
            of_student, of_teacher = self.crf.two_view_marginals(
                student, teacher, mask, detach_teacher=detach_teacher and not self.teaches("cross_modal")
            )
            target = _target(teacher, of_teacher, weights, detach_teacher)
            loss, terms = self._aligned(student.new_zeros(()), {}, student, of_student, target, mask)
            loss, terms = self._taught(loss, terms, "text_only", student, of_student, mask)
            return self._taught(loss, terms, "cross_modal", teacher, of_teacher, mask)
        loss, terms = mask.new_zeros((), dtype=self.crf.start.dtype), dict[str, Tensor]()
        for view, emissions in (("text_only", student), ("cross_modal", teacher)):
            if emissions is not None and self.teaching is not None:
                log_marginals = None
                if self.teaching.needs_marginals:
                    _, log_marginals = self.crf.log_partition_and_marginals(emissions, mask)
                loss, terms = self._taught(loss, terms, view, emissions, log_marginals, mask)
        return loss, terms

    def _of_one(
        self, view: str, weight: float, emissions: Tensor, labels: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """A view's likelihood and what fixed teachers say of it, and its log-marginals."""
        log_likelihood, log_marginals = self.crf.log_likelihood_and_marginals(
            emissions, labels, mask, detach_marginals=not self.teaches(view)
        )
        nll = -log_likelihood.mean()
        loss, terms = self._taught(weight * nll, {f"nll_{view}": nll}, view, emissions, log_marginals, mask)
        return loss, terms, log_marginals

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

    def _taught(
        self,
        loss: Tensor,
        terms: dict[str, Tensor],
        view: str,
        emissions: Tensor,
        log_marginals: Tensor | None,
        mask: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms with what fixed teachers say of a view, if they say something."""
        if self.teaching is None or self.lesson is None or not self.teaches(view):
            return loss, terms
        divergence = self.teaching.divergences(self.crf, self.lesson, emissions, log_marginals, mask).mean()
        loss = loss + self.weight_teacher * self.teaching.temperature**2 * divergence
        return loss, {**terms, "teacher": terms.get("teacher", 0.0) + divergence}


def _target(emissions: Tensor, log_marginals: Tensor, weights: Tensor | None, detached: bool) -> Target:
    if detached:
        emissions, log_marginals = emissions.detach(), log_marginals.detach()
    return Target(emissions, log_marginals, weights)
