"""What every tagger shares: labels, a CRF, saving and loading.

A system (:mod:`ner.models.ita`, …) is a subclass that turns a view into emissions; :mod:`ner.models.registry` finds it
by its name. The loss is :mod:`ner.models.losses`'. Making tensors of tweets is left to :mod:`ner.views`, training to
:mod:`ner.training.run`.
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
from ner.encoder.casing import FEATURES
from ner.encoder.dropout import replace_dropouts
from ner.models.config import TaggerConfig
from ner.models.context_target import ContextLayers
from ner.models.graph import GraphInput, GraphInputs
from ner.models.groups import parameter_groups
from ner.models.losses import Losses
from ner.models.pretrained import empty_encoder, load_encoder, longest_window
from ner.views import EncodedView, FurtherWords, ViewBatch, ViewName
from ner.visual import VisualBatch, Visuals
from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.settings.training import TrainParams


class TaggerModel(Losses):
    """Base of the systems: a pretrained encoder, layers of the system's own, and a CRF over tokens.

    A subclass defines :meth:`add_layers` and :meth:`emissions`, and where it has them :meth:`two_view_emissions`,
    :meth:`extra_losses`, :meth:`facts_of`, :meth:`word_facts`, :meth:`parameter_groups`, :meth:`training_views`,
    :meth:`graph_inputs` and :meth:`token_emissions`.

    Attributes:
        reads_context: whether the cross-modal view has what pictures say, in words, behind the tweet.
        reads_visual: whether the cross-modal view has features and objects of pictures as tensors.
    """

    reads_context: ClassVar[bool] = True
    reads_visual: ClassVar[bool] = False

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
        self.casing = None
        if config.casing:
            self.casing = nn.Linear(len(FEATURES), encoder.config.hidden_size, bias=False)
            nn.init.zeros_(self.casing.weight)  # so that the tagger begins as it would without
        self.crf = LinearChainCRF(len(self.labels), allowed_transitions(self.labels), config.exclude_forbidden)
        self.context_layers = None
        if config.context_target is not None:
            self.context_layers = ContextLayers(
                self.emission_layer.in_features,
                encoder.config.hidden_size,
                self.labels,
                config.context_target,
                exclude_forbidden=config.exclude_forbidden,
            )
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

    def leave_context_layers(self) -> None:
        """Let go of what only served to learn from contexts: a tagger is saved without."""
        self.context_layers = self.config.context_target = None

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

    def grid_attention(self, view: ViewBatch, visual: VisualBatch) -> Tensor | None:
        """How much each token attends to each region of its tweet's pictures; None by default.

        Args:
            view: B tweets of at most L tokens.
            visual: what their pictures give as tensors, at most R regions a tweet.

        Returns:
            weights, at most 1 in all for a token, 0 on padding, *Shape:* (B, L, R).
        """
        return None

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
        names: list[GraphInput] = ["input_ids", "attention_mask", "firsts"]
        return names if self.casing is None else [*names, "casing"]

    def token_emissions(self, inputs: GraphInputs) -> Tensor:
        """Emissions from a part of a batch, free of Python control flow: what an exported graph computes.

        Args:
            inputs: those of :meth:`graph_inputs`; N tokens.

        Returns:
            emissions, *Shape:* (N, n_labels).
        """
        raise NotImplementedError

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

    def with_casing(self, vectors: Tensor, views: Sequence[ViewBatch]) -> Tensor:
        """Tokens' vectors with an embedding of how each is written, where the tagger looks at that.

        Args:
            vectors: of the views' tokens, one view after the other, *Shape:* (views · B, L, hidden_width).
            views: of B tweets each.

        Returns:
            *Shape:* (views · B, L, hidden_width).

        Raises:
            ValueError: a view does not say how its tokens are written.
        """
        if self.casing is None:
            return vectors
        if any("casing" not in view for view in views):
            raise ValueError("this tagger looks at how tokens are written: its views need `casing`")
        return vectors + self.casing(torch.cat([view["casing"] for view in views]).to(self.casing.weight.dtype))

    def with_casing_in_graph(self, vectors: Tensor, inputs: GraphInputs) -> Tensor:
        """As :meth:`with_casing`, of N tokens in an exported graph, *Shape:* (N, hidden_width)."""
        return vectors if self.casing is None else vectors + self.casing(inputs["casing"])

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
