"""What every tagger shares: labels, a CRF, the loss of both views and their alignment, saving and loading.

A system (:mod:`ner.models.ita`, …) is a subclass that turns a view into emissions; :mod:`ner.models.registry` finds it
by its name. The text-only view is the tweet without whatever its picture gives, the cross-modal view has that; the loss
is ITA's (Wang et al., NAACL 2022): NLL of the text-only view, weighted NLL of the cross-modal view, weighted KL from
the first to the second. Making tensors of tweets is left to :mod:`ner.views`, training to :mod:`ner.training.run`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ner.bioes import allowed_transitions
from ner.crf.chain import LinearChainCRF
from ner.encoder import packing
from ner.encoder.dropout import replace_dropouts
from ner.models.config import TaggerConfig
from ner.models.gradients import gradient_taken
from ner.models.graph import GraphInput, GraphInputs
from ner.models.groups import parameter_groups
from ner.models.objective import Objective
from ner.models.pretrained import empty_encoder, load_encoder, longest_window
from ner.models.relation import Relation
from ner.views import EncodedView, FurtherWords, ViewBatch, ViewName
from ner.visual import VisualBatch, Visuals
from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.settings.training import TrainParams

# Up to so many hidden values (sub-tokens of both views × width × layers) a step's activations are small beside all else
# that a process holds, and one graph of both views is faster by up to a tenth.
SMALL = 2**20


class TaggerModel(Relation, PreTrainedModel):
    """Base of the systems: a pretrained encoder, layers of the system's own, and a CRF over tokens.

    A subclass defines :meth:`add_layers` and :meth:`emissions`, and where it has them :meth:`two_view_emissions`,
    :meth:`extra_losses`, :meth:`facts_of`, :meth:`word_facts`, :meth:`parameter_groups`, :meth:`training_views`,
    :meth:`graph_inputs` and :meth:`token_emissions`.

    Attributes:
        reads_context: whether the cross-modal view has what pictures say, in words, behind the tweet.
        reads_visual: whether the cross-modal view has features and objects of pictures as tensors.
        one_graph: whether :meth:`two_view_emissions` must make both views' emissions, because they share work. Else a
            detached teacher's gradient is taken before the student's pass begins, so that the activations of only one
            view are in memory.
    """

    reads_context: ClassVar[bool] = True
    reads_visual: ClassVar[bool] = False
    one_graph: ClassVar[bool] = False

    config_class = TaggerConfig
    config: TaggerConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    # The loss is a mean over the tweets of a batch, so the Trainer must divide it by the number of accumulated parts;
    # for a forward with **kwargs it would not.
    accepts_loss_kwargs = False

    def __init__(self, config: TaggerConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if not config.encoder or not config.tag_labels:
            raise ValueError("a tagger's config needs `encoder` and `tag_labels`")
        if encoder is None:
            encoder = empty_encoder(config.encoder)
        self.encoder = encoder
        self.labels = list(config.tag_labels)
        self.add_layers(config)
        self.crf = LinearChainCRF(len(self.labels), allowed_transitions(self.labels), config.exclude_forbidden)
        # Keeps the pooler, which nothing reads, from being trained or asking DDP for its gradient.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = nn.Identity()  # not None: SqueezeBERT, say, calls it without a look
        replace_dropouts(encoder)
        self.packs = bool(config.packs)
        if self.packs:
            packing.enable(encoder)
        self.post_init()

    @classmethod
    def from_encoder(
        cls,
        encoder: str | Path,
        labels: list[str],
        params: TrainParams,
        *,
        facts: Mapping[str, Any] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """A tagger on a pretrained encoder, with nothing else learned yet.

        Args:
            encoder: a folder or a hub name.
            labels: BIOES or IOB2, in the order that emissions will have.
            params: the section `train` of params.yaml.
            facts: what the system takes from the training data (:meth:`facts_of`).
            local_files_only: whether to leave the hub alone.

        Raises:
            UserError: the checkpoint lacks weights that the encoder needs, or has no hidden states per sub-token.
        """
        loaded = load_encoder(encoder, params.revision, local_files_only)
        longest = longest_window(loaded) - cls.positions_behind(facts or {})
        config = TaggerConfig.of(params, loaded, labels, facts or {}, longest, reads_context=cls.reads_context)
        model = cls(config, loaded)
        model.try_packing()
        model.fill(params)
        return model

    def try_packing(self) -> None:
        """Find out whether the encoder, whose weights are loaded, may be given packed windows."""
        self.packs = self.config.packs = packing.try_out(self.encoder)

    @classmethod
    def facts_of(cls, params: TrainParams, posts: Sequence[View], visuals: Visuals | None) -> dict[str, Any]:
        """What the system takes from the training data before it is built, as JSON values; nothing by default.

        Args:
            params: the section `train` of params.yaml.
            posts: the training split.
            visuals: what its pictures give as tensors, where the stage `features` or `objects` ran.

        Raises:
            UserError: the system needs something that is not there.
        """
        return {}

    @classmethod
    def positions_behind(cls, facts: Mapping[str, Any]) -> int:
        """How many positions the system takes behind a window of sub-tokens; none by default.

        Args:
            facts: those of :meth:`facts_of`.
        """
        return 0

    @classmethod
    def word_facts(cls, params: TrainParams, tokens: Iterable[str]) -> dict[str, Any]:
        """Further facts, from the `tokens` of all posts at hand, of whichever split; nothing by default.

        `words` names those with rows of a table of word vectors, from :data:`ner.views.UNKNOWN_WORD` + 1.

        Raises:
            UserError: the vectors cannot be read.
        """
        return {}

    def fill(self, params: TrainParams) -> None:
        """Fill in what a tagger that is yet to be trained takes from files that `params` name; nothing by default."""

    def further_words(self, file: Path) -> FurtherWords:
        """Prepare to take in vectors of words that the training data did not have.

        Args:
            file: the word vectors that the tagger was trained with.

        Returns:
            a function that takes the vectors of some words, in place of those that it took before, and returns the rows
            of the table (:class:`ner.views.ViewEncoder`) of those that have one.

        Raises:
            UserError: the tagger was trained without word vectors, or with others.
        """
        raise UserError(f"this tagger, of system {self.config.system!r}, was trained without word vectors")

    def add_layers(self, config: TaggerConfig) -> None:
        """Add the system's layers between the encoder, which is there, and the CRF, which follows."""
        raise NotImplementedError

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

    def grid_attention(self, view: ViewBatch, visual: VisualBatch) -> Tensor | None:
        """How much each token attends to each region of its tweet's pictures; None by default.

        Args:
            view: B tweets of at most L tokens.
            visual: what their pictures give as tensors, at most R regions a tweet.

        Returns:
            weights, at most 1 in all for a token, 0 on padding, *Shape:* (B, L, R).
        """
        return None

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

    def graph_inputs(self, *, with_pictures: bool) -> list[GraphInput]:
        """What :meth:`token_emissions` reads, by name.

        Args:
            with_pictures: whether it is to read what pictures give as tensors, too.

        Raises:
            UserError: it is to, and the tagger reads nothing of the kind.
        """
        if with_pictures:
            raise UserError(
                f"a tagger of system {self.config.system!r} reads pictures as words behind the tweet, or has been "
                "trained without; leave out --pictures"
            )
        return ["input_ids", "attention_mask", "firsts"]

    def token_emissions(self, inputs: GraphInputs) -> Tensor:
        """Emissions from a part of a batch, free of Python control flow: what an exported graph computes.

        Args:
            inputs: those of :meth:`graph_inputs`; N tokens.

        Returns:
            emissions, *Shape:* (N, n_labels).
        """
        raise NotImplementedError

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

    def parameter_groups(self, params: TrainParams) -> list[dict[str, Any]]:
        """Groups for the optimizer: weight decay on matrices alone, learning rates by what the parameters belong to.

        The encoder has `learning_rate`, the layers on top of it `new_learning_rate`, if there is one, and the CRF
        `crf_learning_rate` and no weight decay, as has every other module whose name ends in `crf`.

        Args:
            params: the section `train` of params.yaml.

        Returns:
            groups as torch's optimizers take them; one without `lr` gets `params.learning_rate`.
        """
        return parameter_groups(self.named_parameters(), params)

    def training_views(self, batch: Sequence[Mapping[ViewName, EncodedView]]) -> list[Mapping[ViewName, EncodedView]]:
        """A batch's views as this step of the training reads them; by default as they are.

        Called once per batch while it is put together; random draws come from torch's own generator.
        """
        return list(batch)

    def forward(
        self,
        text_only: ViewBatch | None = None,
        cross_modal: ViewBatch | None = None,
        visual: VisualBatch | None = None,
        labels: Tensor | None = None,
        alignment_scale: float = 1.0,
        relation: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The training loss of B tweets of at most L tokens, and its terms.

        Args:
            text_only: the tweets alone (needed unless the tagger trains on `cross_modal` only).
            cross_modal: the tweets as the cross-modal view reads them (needed unless it trains on `text_only` only).
            visual: what their pictures give as tensors, where the system reads those.
            labels: indices into `self.labels`, anything on padding, *Shape:* (B, L).
            alignment_scale: factor on the KL term's weight, for its warm-up.
            relation: in the place of labels; then the loss is :meth:`relation_loss`, *Shape:* (B,).

        Returns:
            `loss`, with gradient; and detached, means over tweets: `nll_text_only`, `nll_cross_modal`, `alignment`,
            each before its weight, where the tagger's mode has them, and those of :meth:`extra_losses`.
            Each of *Shape:* ().

        Raises:
            ValueError: labels, or a view that the tagger trains on, are missing.
        """
        if relation is not None:
            return self.relation_loss(cross_modal, visual, relation)
        if labels is None:
            raise ValueError("the loss needs labels; use `emissions` to predict")
        mode = self.config.views
        if mode == "both" and text_only is not None and cross_modal is not None:
            loss, terms = self._two_view_loss(text_only, cross_modal, visual, labels, alignment_scale)
        else:
            batch = {"text_only": text_only, "cross_modal": cross_modal}.get(mode)
            if batch is None:
                raise ValueError(f"a tagger that trains on views {mode!r} needs their batches")
            emissions = self.emissions(batch, visual if mode == "cross_modal" else None)
            nll = -self.crf.log_likelihood(emissions, labels, batch["mask"]).mean()
            loss, terms = self._with_extra(nll, {f"nll_{mode}": nll}, labels, text_only, cross_modal)
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _two_view_loss(
        self,
        text_only: ViewBatch,
        cross_modal: ViewBatch,
        visual: VisualBatch | None,
        labels: Tensor,
        alignment_scale: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, mask = self.config, text_only["mask"]
        objective = Objective.of(self.crf, config, alignment_scale)
        if self.one_graph or not config.detach_teacher or self._is_small(text_only, cross_modal):
            student, teacher = self.two_view_emissions(text_only, cross_modal, visual)
            weights = self.alignment_weights()
            loss, terms = objective.of_both(
                student, teacher, labels, mask, weights, detach_teacher=config.detach_teacher
            )
            return self._with_extra(loss, terms, labels, text_only, cross_modal)
        emissions = self.emissions(cross_modal, visual)
        loss, terms, target = objective.of_teacher(emissions, labels, mask, self.alignment_weights())
        loss, terms = self._with_extra(loss, terms, labels, None, cross_modal)
        taught = gradient_taken(loss, self.parameters())
        loss, of_student = objective.of_student(self.emissions(text_only), target, labels, mask)
        return self._with_extra(taught + loss, {**terms, **of_student}, labels, text_only, None)

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
        terms = dict(terms)
        for name, term in self.extra_losses(labels, view["mask"], text_only, cross_modal).items():
            loss = loss + term
            terms[name] = terms[name] + term if name in terms else term
        return loss, terms

    def _is_small(self, *views: ViewBatch) -> bool:
        encoder = self.encoder.config
        n_values = sum(len(view["places"]) for view in views) * encoder.hidden_size
        return n_values * getattr(encoder, "num_hidden_layers", 1) <= SMALL

    def drop_words(self, vectors: Tensor) -> Tensor:
        """Word dropout as in flair: in training, zeroes all of a token's vector, and does not rescale the others.

        Args:
            vectors: the tokens' vectors, *Shape:* (B, L, hidden_width).

        Returns:
            the same, some of them zero, *Shape:* (B, L, hidden_width).
        """
        if not self.training or not self.config.word_dropout:
            return vectors
        kept = torch.rand(vectors.shape[:2], device=vectors.device) >= self.config.word_dropout
        return vectors * kept.unsqueeze(-1).to(vectors.dtype)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LinearChainCRF):
            module.reset_parameters()
