"""The loss of a tagger: of both views of labelled tweets, and the alignment of those that nobody has labelled.

The text-only view is the tweet without whatever its picture gives, the cross-modal view has that; the loss is ITA's
(Wang et al., NAACL 2022): NLL of the text-only view, weighted NLL of the cross-modal view, weighted KL from the first
to the second. Here is decided which passes an encoder makes and how long their activations stay; the terms are
:mod:`ner.models.objective`'s.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ner.crf.chain import LinearChainCRF
from ner.models.config import TaggerConfig
from ner.models.context_target import ContextLayers, ContextLoss, Target, inputs_of
from ner.models.gradients import TakenGradient, gradient_taken
from ner.models.lessons import Lesson
from ner.models.objective import Objective, Scales
from ner.models.relation import Relation
from ner.views import ViewBatch
from ner.visual import VisualBatch

# Up to so many hidden values (sub-tokens of both views × width × layers) a step's activations are small beside all else
# that a process holds, and one graph of both views is faster by up to a tenth.
SMALL = 2**20


class Losses(Relation, PreTrainedModel):
    """What a tagger learns, from the emissions that its system makes.

    Attributes:
        one_graph: whether :meth:`two_view_emissions` must make both views' emissions, because they share work. Else a
            detached teacher's gradient is taken before the student's pass begins, so that the activations of only one
            view are in memory.
    """

    one_graph: ClassVar[bool] = False

    config: TaggerConfig
    crf: LinearChainCRF
    encoder: PreTrainedModel
    context_layers: ContextLayers | None

    @property
    def emission_layer(self) -> nn.Linear:
        """The layer that makes emissions of tokens' vectors, in one call for a view's tweets or for those of both."""
        layer: nn.Linear = self.emission
        return layer

    def emissions(self, view: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        """Score every label of every token.

        Args:
            view: B tweets of at most L tokens.
            visual: what their pictures give as tensors; None for the text-only view, and for systems that read
                pictures as text.

        Returns:
            emissions, *Shape:* (B, L, n_labels), anything on padding.
        """
        raise NotImplementedError

    def two_view_emissions(
        self, text_only: ViewBatch, cross_modal: ViewBatch, visual: VisualBatch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Emissions of both views of the same tweets, for systems that can share work between them.

        Args:
            text_only: B tweets alone.
            cross_modal: the same tweets, as the cross-modal view reads them.
            visual: what their pictures give as tensors, for the cross-modal view.

        Returns:
            text-only emissions, *Shape:* (B, L, n_labels).
            cross-modal emissions, *Shape:* (B, L, n_labels).
        """
        return self.emissions(text_only), self.emissions(cross_modal, visual)

    def extra_losses(
        self, labels: Tensor, mask: Tensor, text_only: ViewBatch | None, cross_modal: ViewBatch | None
    ) -> dict[str, Tensor]:
        """Terms that the system adds to the loss, called after the emissions of the same batch; none by default.

        Where one view comes after the other, this is called after each, with that view alone, and terms of one name
        are added up: a term may read of a view's pass only where it gets the view.

        Args:
            labels: gold labels' indices, *Shape:* (B, L).
            mask: True on tokens, *Shape:* (B, L).
            text_only: the tweets alone, where that view is trained.
            cross_modal: the tweets as the cross-modal view reads them, where that view is trained.

        Returns:
            by the name that logs give it, each weighted term's mean over tweets, *Shape:* ().
        """
        return {}

    def forward(
        self,
        text_only: ViewBatch | None = None,
        cross_modal: ViewBatch | None = None,
        visual: VisualBatch | None = None,
        labels: Tensor | None = None,
        alignment_scale: float = 1.0,
        relation: Tensor | None = None,
        lesson: Lesson | None = None,
        unlabelled: Mapping[str, Any] | None = None,
        teacher_scale: float = 1.0,
        target: Target | None = None,
        target_scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """The training loss of B tweets of at most L tokens, and its terms.

        Each term is a mean over the tweets that have it: a likelihood over the labelled, the alignment, what fixed
        teachers say and what contexts say over all.

        Args:
            text_only: the tweets alone (needed unless the tagger trains on `cross_modal` only).
            cross_modal: the tweets as the cross-modal view reads them (needed unless it trains on `text_only` only).
            visual: what their pictures give as tensors, where the system reads those.
            labels: indices into `self.labels`, anything on padding, *Shape:* (B, L).
            alignment_scale: factor on the KL term's weight, for its warm-up.
            relation: in the place of labels; then the loss is :meth:`relation_loss`, *Shape:* (B,).
            lesson: what fixed teachers say of the tweets, where the tagger learns from some.
            unlabelled: of further tweets, which have no labels: `text_only`, `cross_modal` or both, as far as something
                is learned of them, and perhaps `visual`, `lesson` and `target`.
            teacher_scale: factor on the weight of what fixed teachers say.
            target: what the tweets' contexts say, where the tagger learns that.
            target_scale: factor on the weights of what contexts say.

        Returns:
            `loss`, with gradient; and detached, means over tweets: `nll_text_only`, `nll_cross_modal`, `alignment`,
            `teacher`, `context_spans`, `context_embedding`, each before its weight, where the tagger's mode has them,
            and those of :meth:`extra_losses`. Each of *Shape:* ().

        Raises:
            ValueError: labels, or a view that the tagger trains on, are missing.
        """
        if relation is not None:
            return self.relation_loss(cross_modal, visual, relation)
        if labels is None:
            raise ValueError("the loss needs labels; use `emissions` to predict")
        scales = Scales(alignment_scale, teacher_scale, target_scale)
        if unlabelled is None:
            loss, terms = self._labelled_loss(text_only, cross_modal, visual, labels, scales, lesson, target)
        else:
            shares = _shares(len(labels), unlabelled, taught=lesson is not None)
            # First, so that what a system keeps of its last pass is the labelled tweets'.
            more, more_terms = self._unlabelled_loss(scales=scales.times(shares), **unlabelled)
            scaled = scales.times(shares.rest)
            loss, terms = self._labelled_loss(text_only, cross_modal, visual, labels, scaled, lesson, target)
            loss = more + loss
            by_term = {"alignment": shares.alignment, "teacher": shares.teacher}
            by_term |= dict.fromkeys(("context_spans", "context_embedding"), shares.contexts)
            for name, weight in by_term.items():
                if name in more_terms:
                    beside = (1 - weight) * terms[name] if name in terms else 0.0
                    terms[name] = weight * more_terms[name] + beside
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _labelled_loss(
        self,
        text_only: ViewBatch | None,
        cross_modal: ViewBatch | None,
        visual: VisualBatch | None,
        labels: Tensor,
        scales: Scales,
        lesson: Lesson | None,
        target: Target | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mode = self.config.views
        objective, contexts = Objective.of(self.crf, self.config, scales, lesson), self._contexts(target, scales)
        if mode == "both" and text_only is not None and cross_modal is not None:
            return self._two_view_loss(text_only, cross_modal, visual, labels, objective, contexts)
        batch = {"text_only": text_only, "cross_modal": cross_modal}.get(mode)
        if batch is None:
            raise ValueError(f"a tagger that trains on views {mode!r} needs their batches")
        with self._watched(contexts) as given:
            emissions = self.emissions(batch, visual if mode == "cross_modal" else None)
        loss, terms = objective.of_single(mode, emissions, labels, batch["mask"])
        if contexts is not None:
            loss, terms = contexts.added(loss, terms, given[0], batch["mask"])
        return self._with_extra(loss, terms, labels, text_only, cross_modal)

    def _two_view_loss(
        self,
        text_only: ViewBatch,
        cross_modal: ViewBatch,
        visual: VisualBatch | None,
        labels: Tensor,
        objective: Objective,
        contexts: ContextLoss | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, mask = self.config, text_only["mask"]
        if self.one_graph or not config.detach_teacher or self._is_small(text_only, cross_modal):
            with self._watched(contexts) as given:
                student, teacher = self.two_view_emissions(text_only, cross_modal, visual)
            weights = self.alignment_weights()
            loss, terms = objective.of_both(
                student, teacher, labels, mask, weights, detach_teacher=config.detach_teacher
            )
            if contexts is not None:
                loss, terms = contexts.added(loss, terms, given[0], mask)
            return self._with_extra(loss, terms, labels, text_only, cross_modal)
        emissions = self.emissions(cross_modal, visual)
        loss, terms, target = objective.of_teacher(emissions, labels, mask, self.alignment_weights())
        loss, terms = self._with_extra(loss, terms, labels, None, cross_modal)
        taught = TakenGradient(loss, self.parameters())
        with self._watched(contexts) as given:
            student = self.emissions(text_only)
        loss, of_student = objective.of_student(student, target, labels, mask)
        if contexts is not None:
            loss, of_student = contexts.added(loss, of_student, given[0], mask)
        return self._with_extra(loss + taught.loss(), _added(terms, of_student), labels, text_only, None)

    def _unlabelled_loss(
        self,
        scales: Scales,
        text_only: ViewBatch | None = None,
        cross_modal: ViewBatch | None = None,
        visual: VisualBatch | None = None,
        lesson: Lesson | None = None,
        target: Target | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What tweets without labels teach; its gradient is taken at once, unless the batch is small."""
        detached = self.config.detach_teacher
        objective, contexts = Objective.of(self.crf, self.config, scales, lesson), self._contexts(target, scales)
        student = teacher = weights = None
        if text_only is not None and cross_modal is not None and (self.one_graph or not detached):
            with self._watched(contexts) as given:
                student, teacher = self.two_view_emissions(text_only, cross_modal, visual)
            weights = self.alignment_weights()
        else:
            if cross_modal is not None:  # a detached teacher that learns nothing itself needs no gradient
                with torch.set_grad_enabled(objective.teaches("cross_modal")):
                    teacher = self.emissions(cross_modal, visual)
                weights = self.alignment_weights()
            if text_only is not None:
                with self._watched(contexts) as given:
                    student = self.emissions(text_only)
        views = [view for view in (text_only, cross_modal) if view is not None]
        mask = views[0]["mask"]
        loss, terms = objective.of_unlabelled(student, teacher, mask, weights, detach_teacher=detached)
        if contexts is not None:
            loss, terms = contexts.added(loss, terms, given[0], mask)
        return loss if self._is_small(*views) else gradient_taken(loss, self.parameters()), terms

    def _with_extra(
        self,
        loss: Tensor,
        terms: dict[str, Tensor],
        labels: Tensor,
        text_only: ViewBatch | None,
        cross_modal: ViewBatch | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms, with what :meth:`extra_losses` adds to them after these views' emissions."""
        view = cross_modal if text_only is None else text_only
        assert view is not None, "a loss has a view"
        extra = self.extra_losses(labels, view["mask"], text_only, cross_modal)
        for term in extra.values():
            loss = loss + term
        return loss, _added(terms, extra)

    def _contexts(self, target: Target | None, scales: Scales) -> ContextLoss | None:
        """What is to be learned from a batch's contexts."""
        if self.context_layers is None or target is None:
            return None
        return ContextLoss(self.context_layers, target, scales.contexts)

    def _watched(self, contexts: ContextLoss | None) -> AbstractContextManager[list[Tensor]]:
        """What the emission layer is given meanwhile, the text-only view first, where something reads it."""
        return nullcontext([]) if contexts is None else inputs_of(self.emission_layer)

    def _is_small(self, *views: ViewBatch) -> bool:
        encoder = self.encoder.config
        n_values = sum(len(view["places"]) for view in views) * encoder.hidden_size
        return n_values * getattr(encoder, "num_hidden_layers", 1) <= SMALL


def _added(terms: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Terms with others, those of one name added up."""
    return {**terms, **{name: terms[name] + term if name in terms else term for name, term in others.items()}}


def _shares(n_labelled: int, unlabelled: Mapping[str, Any], *, taught: bool) -> Scales:
    """Which part of the tweets that a term is a mean over have no labels.

    Args:
        n_labelled: how many tweets have labels.
        unlabelled: the others' batch.
        taught: whether fixed teachers say something of the labelled ones.
    """
    n_more = n_tweets(unlabelled)
    share = n_more / (n_more + n_labelled)
    taught_share = (share if taught else 1.0) if "lesson" in unlabelled else 0.0
    return Scales(share, taught_share, share)


def n_tweets(batch: Mapping[str, Any]) -> int:
    """How many tweets a batch of views has, labelled or not."""
    return len(batch["text_only" if "text_only" in batch else "cross_modal"]["mask"])
