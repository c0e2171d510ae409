"""RpBERT (Sun et al., AAAI 2021): regions of the picture behind the tweet, as far as the two belong together.

A first pass over tweet and regions gives r, the probability that the picture adds to the tweet's meaning; in a second
pass of the same encoder the regions count as much as r says. A word is the mean of its sub-tokens, a BiLSTM and a
linear layer make emissions. The text-only view has neither regions nor a first pass. The loss and everything else are
:class:`ner.models.base.TaggerModel`'s.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ner.encoder import packing, regions
from ner.encoder.packing import Part
from ner.encoder.windows import MAX_SUBTOKENS_AT_ONCE, Windows, first_windows, mean_over_tokens, token_vectors
from ner.models.base import TaggerModel
from ner.models.config import TaggerConfig
from ner.models.graph import GraphInput, GraphInputs, lstm_in_graph, mean_by_owner
from ner.models.relation import log_probability, on_attention
from ner.views import ViewBatch
from ner.visual import VisualBatch, Visuals
from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.settings.training import RpbertParams, TrainParams

_WEIGHED_AT_ONCE = MAX_SUBTOKENS_AT_ONCE // 16  # sub-tokens and regions of a pass that keeps all layers' attention


class RpbertTagger(TaggerModel):
    """Encoder over tweet and gated regions → mean of each word's sub-tokens → BiLSTM → linear emissions → CRF."""

    reads_context = False
    reads_visual = True
    learns_relation = True

    @classmethod
    def facts_of(cls, params: TrainParams, posts: Sequence[View], visuals: Visuals | None) -> dict[str, Any]:
        """The width and number of a picture's regions.

        Raises:
            UserError: there are no features, though the cross-modal view is to be trained.
        """
        if params.views != "text_only" and (visuals is None or visuals.width is None):
            raise UserError(
                f"train.model: rpbert with train.views: {params.views} reads features of pictures, and there are none; "
                "choose an extractor for them (features.extractor), or train.views: text_only"
            )
        return {} if visuals is None else visuals.facts(posts) | {"object_labels": []}  # it reads no objects

    @classmethod
    def positions_behind(cls, facts: Mapping[str, Any]) -> int:
        """As many as a picture has regions; those of several pictures share them."""
        return facts.get("n_cells") or 0

    def add_layers(self, config: TaggerConfig) -> None:
        """Add the projection of regions, the relation's head, the BiLSTM over words and the emission layer."""
        self.options = RpbertParams.model_validate(config.options or {})
        width = self.encoder.config.hidden_size
        region_width = (config.facts or {}).get("region_width")
        self.typed = regions.has_types(self.encoder)
        self.projection = self.relation_head = self.region_vector = None
        if region_width is not None:
            embedding_width = self.encoder.get_input_embeddings().embedding_dim
            self.projection = nn.Linear(region_width, embedding_width)
            self.relation_head = nn.Linear(width, 2)
            if not self.typed:
                self.region_vector = nn.Parameter(torch.zeros(embedding_width))
        self.lstm = None
        if self.options.lstm_layers:
            self.lstm = nn.LSTM(
                width, self.options.lstm_width, self.options.lstm_layers, batch_first=True, bidirectional=True
            )
            width = 2 * self.options.lstm_width
        self.head = nn.Linear(width, len(self.labels))

    @property
    def emission_layer(self) -> nn.Linear:
        """As :attr:`ner.models.losses.Losses.emission_layer`."""
        return self.head

    def emissions(self, view: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.emissions`; where no tweet has a region, as without `visual`."""
        if visual is None or not len(visual["pictured"]):
            vectors = token_vectors(view, self._of_text)
        else:
            seen = self._projected(visual)
            embeddings, bias = self._gated(visual, seen, self._log_relation(view, visual, seen, learns=self._attached))
            encode = partial(self._with_regions, visual=visual, embeddings=embeddings, bias=bias)
            vectors = token_vectors(view, encode, extra=visual["mask"].shape[1])
        return self.head(self._through_lstm(self.drop_words(self.with_casing(vectors, [view])), view["mask"]))

    def relation_loss(self, view: ViewBatch | None, visual: VisualBatch | None, relation: Tensor) -> dict[str, Tensor]:
        """As :meth:`ner.models.relation.Relation.relation_loss`: cross-entropy of the first pass alone."""
        if view is None or visual is None:
            raise ValueError("the relation's loss needs posts with pictures")
        logits = self._relation_logits(view, visual, self._projected(visual))
        loss = nn.functional.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), relation)
        return {"loss": self.options.relation_weight * loss, "relation": loss.detach()}

    @property
    def asks_relation(self) -> bool:
        """Whether it has learned with features."""
        return self.relation_head is not None

    def relation(self, view: ViewBatch, visual: VisualBatch | None) -> Tensor:
        """The probability r that a tweet's pictures add to its meaning, whatever the gate makes of it.

        Args:
            view: B tweets.
            visual: what their pictures give as tensors.

        Returns:
            r, NaN for a tweet without regions, *Shape:* (B,).
        """
        if visual is None or not len(visual["pictured"]):
            return torch.full((len(view["mask"]),), torch.nan, device=view["mask"].device)
        logits = self._relation_logits(view, visual, self._projected(visual))
        return _by_tweet(log_probability(logits).exp(), visual, torch.nan)

    @torch.no_grad()
    def grid_attention(self, view: ViewBatch, visual: VisualBatch) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.grid_attention`, in the last layer of the second pass.

        A token's weights are the means of those of its sub-tokens (with `pooling: first`, those of its first) over all
        heads. What is missing to 1 goes to the tweet.
        """
        if not len(visual["pictured"]):
            return torch.zeros(*view["mask"].shape, visual["mask"].shape[1], device=view["mask"].device)
        seen = self._projected(visual)
        embeddings, bias = self._gated(visual, seen, self._log_relation(view, visual, seen, learns=False))

        def weigh(windows: Windows) -> Tensor:
            part = self._part(windows, visual, embeddings, bias, self._wanted(windows))
            weights = regions.attention_to(self.encoder, part, windows, biased=bias is not None)
            return self._pooled(weights, windows)

        return token_vectors(view, weigh, visual["mask"].shape[1], _WEIGHED_AT_ONCE)

    def check_relation(self, n_posts: int) -> None:
        """See whether r learns from something: posts of its own, or the entities.

        Raises:
            UserError: it does not.
        """
        if not n_posts and self.options.gate != "none" and self.options.detach_gate:
            raise UserError(
                "train.rpbert.detach_gate: true, and data.relation gives no posts with pictures, so that the gate "
                "would stay as it is drawn at first; name such posts, or set detach_gate: false or gate: none"
            )

    def graph_inputs(self, *, with_pictures: bool) -> list[GraphInput]:
        """As :meth:`ner.models.base.TaggerModel.graph_inputs`."""
        if with_pictures and self.projection is None:
            return super().graph_inputs(with_pictures=True)
        names = super().graph_inputs(with_pictures=False)
        names += ["owners"] if self.options.pooling == "mean" else []
        names += ["mask", "slots"] if self.lstm is not None else []
        names += ["present", "regions", "region_mask", "cells", "closings", "leading"] if with_pictures else []
        return names

    def token_emissions(self, inputs: GraphInputs) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.token_emissions`; tweets without a picture have regions that hide."""
        if "regions" in inputs:
            hidden = self._seen_in_graph(inputs)
        else:
            hidden = self.encoder(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).last_hidden_state
        hidden = hidden.flatten(0, 1)
        vectors = hidden[inputs["firsts"]]
        if self.options.pooling == "mean":
            vectors = mean_by_owner(hidden, inputs["owners"].flatten(), vectors)
        vectors = self.with_casing_in_graph(vectors, inputs)
        if self.lstm is not None:
            mask, slots = inputs["mask"], inputs["slots"]
            laid = vectors.new_zeros(mask.shape[0] * mask.shape[1], vectors.shape[1]).index_copy(0, slots, vectors)
            mixed = lstm_in_graph(self.lstm, laid.view(*mask.shape, -1), mask.sum(1))
            vectors = mixed.flatten(0, 1)[slots]
        return self.head(vectors)

    def _seen_in_graph(self, inputs: GraphInputs) -> Tensor:
        """Hidden states of the sub-tokens of windows with gated regions behind them, *Shape:* (W, S, hidden_width)."""
        assert self.projection is not None, "as graph_inputs has seen"
        assert self.relation_head is not None, "made with the projection"
        mask = inputs["region_mask"]
        positions = inputs["closings"][:, None] + 1 + inputs["cells"]
        encode = partial(
            regions.encode_dense,
            self.encoder,
            inputs["input_ids"],
            inputs["attention_mask"],
            region_mask=mask,
            positions=positions,
            typed=self.typed,
        )
        seen = self.projection(inputs["regions"])
        if self.options.gate == "none":
            return encode(self._told_apart(seen), bias=None)
        first = encode(self._told_apart(seen), bias=None)[:, 0]
        log_relation = log_probability(self.relation_head(first))[inputs["leading"]]
        embeddings, bias = self._opened(seen.flatten(0, 1), log_relation[:, None].expand(mask.shape).flatten())
        return encode(embeddings.view(seen.shape), bias=None if bias is None else bias.view(mask.shape))

    @property
    def _attached(self) -> bool:
        return not self.options.detach_gate

    def _of_text(self, windows: Windows) -> Tensor:
        """Vectors of the tokens of windows without regions, *Shape:* (N, hidden_width)."""
        wanted = self._wanted(windows)
        if self.packs:
            hidden = packing.encode_parts(self.encoder, [packing.part_of(windows, wanted)])
        else:
            hidden = self.encoder(input_ids=windows.input_ids, attention_mask=windows.attention_mask).last_hidden_state
            hidden = hidden.flatten(0, 1)[windows.places[wanted]]
        return self._pooled(hidden, windows)

    def _with_regions(self, windows: Windows, visual: VisualBatch, embeddings: Tensor, bias: Tensor | None) -> Tensor:
        """Vectors of the tokens of windows with regions behind them, *Shape:* (N, hidden_width)."""
        hidden = self._encode(windows, visual, embeddings, bias, self._wanted(windows))
        return self._pooled(hidden, windows)

    def _encode(
        self, windows: Windows, visual: VisualBatch, embeddings: Tensor, bias: Tensor | None, wanted: Tensor
    ) -> Tensor:
        """Hidden states of sub-tokens that have regions behind them.

        Args:
            windows: T sub-tokens.
            visual: of the tweets, which have M regions.
            embeddings: of the regions, *Shape:* (M, embedding_width).
            bias: added to attention scores to each region, *Shape:* (M,); None: nothing.
            wanted: which of the T, *Shape:* (N,).

        Returns:
            hidden states, *Shape:* (N, hidden_width).
        """
        part = self._part(windows, visual, embeddings, bias, wanted)
        if self.packs:
            return packing.encode_parts(self.encoder, [part])
        return regions.encode_padded(self.encoder, part, biased=bias is not None)

    def _part(
        self, windows: Windows, visual: VisualBatch, embeddings: Tensor, bias: Tensor | None, wanted: Tensor
    ) -> Part:
        """What a pass over sub-tokens with regions behind them reads; arguments as of :meth:`_encode`."""
        behind = regions.behind(windows, visual)
        words = self.encoder.get_input_embeddings()(windows.input_ids.flatten()[windows.places])
        return regions.part_with(
            windows,
            behind,
            (words, embeddings[behind.sources].to(words.dtype)),
            None if bias is None else bias[behind.sources],
            wanted,
            typed=self.typed,
        )

    def _wanted(self, windows: Windows) -> Tensor:
        if self.options.pooling == "first":
            return windows.firsts
        return torch.arange(len(windows.places), device=windows.places.device)

    def _pooled(self, hidden: Tensor, windows: Windows) -> Tensor:
        return hidden if self.options.pooling == "first" else mean_over_tokens(hidden, windows)

    def _projected(self, visual: VisualBatch) -> Tensor:
        """The tweets' regions as wide as word vectors, *Shape:* (M, embedding_width)."""
        assert self.projection is not None, "a tagger that has learned without features is shown none"
        found = visual["regions"].flatten(0, 1)[visual["places"]]
        return self.projection(found.to(self.projection.weight.dtype))

    def _relation_logits(self, view: ViewBatch, visual: VisualBatch, seen: Tensor) -> Tensor:
        """The first pass: whether pictures add to the meaning of the tweets that have any.

        Args:
            view: B tweets, P of them with regions; of a long one the first window is read.
            visual: of the tweets, which have M regions.
            seen: the regions, projected, *Shape:* (M, embedding_width).

        Returns:
            scores of no and yes, *Shape:* (P, 2).
        """
        assert self.relation_head is not None, "made with the projection"
        windows = first_windows(view, visual["pictured"])
        return self.relation_head(self._encode(windows, visual, self._told_apart(seen), None, windows.starts))

    def _log_relation(self, view: ViewBatch, visual: VisualBatch, seen: Tensor, *, learns: bool) -> Tensor | None:
        """log r of each tweet that has regions, *Shape:* (P,); None where no gate needs it."""
        if self.options.gate == "none":
            return None
        with nullcontext() if learns else torch.no_grad():
            return log_probability(self._relation_logits(view, visual, seen))

    def _gated(self, visual: VisualBatch, seen: Tensor, log_relation: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Regions as the second pass reads them.

        A hard gate is 1 where r ≥ 0.5, else 0. Where r is to learn from it, its gradient is that of r itself (the
        straight-through estimator of Bengio et al. 2013); that of regions that are not attended to at all is 0.

        Args:
            visual: of the tweets, P of which have regions, M in all.
            seen: the regions, projected, *Shape:* (M, embedding_width).
            log_relation: log r, *Shape:* (P,); None: no gate.

        Returns:
            embeddings, *Shape:* (M, embedding_width).
            what is added to attention scores to each region, *Shape:* (M,); None: nothing.
        """
        if log_relation is None:
            return self._told_apart(seen), None
        tweets = visual["places"] // visual["mask"].shape[1]
        return self._opened(seen, _by_tweet(log_relation, visual, 0.0)[tweets])

    def _opened(self, seen: Tensor, log_relation: Tensor) -> tuple[Tensor, Tensor | None]:
        """As :meth:`_gated`, with log r of each region, *Shape:* (M,)."""
        if self.options.gate_on == "attention":
            return self._told_apart(seen), on_attention(log_relation, self.options.gate)
        gate = log_relation.exp()
        if self.options.gate == "hard":
            gate = (gate >= 0.5).to(gate.dtype) + (gate - gate.detach())
        return self._told_apart(seen * gate.unsqueeze(1).to(seen.dtype)), None

    def _told_apart(self, embeddings: Tensor) -> Tensor:
        """Regions with what tells them from sub-tokens, where the encoder has no second token type for that."""
        return embeddings if self.region_vector is None else embeddings + self.region_vector

    def _through_lstm(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """What the BiLSTM makes of tweets, each of its true length, *Shape:* (B, L, width)."""
        if self.lstm is None:
            return vectors
        if vectors.is_cuda:
            self.lstm.flatten_parameters()
        with torch.autocast(vectors.device.type, enabled=False):
            packed = pack_padded_sequence(
                vectors.to(self.head.weight.dtype), mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
            )
            mixed, _ = self.lstm(packed)
        return pad_packed_sequence(mixed, batch_first=True, total_length=vectors.shape[1])[0]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        own = (self.projection, self.relation_head, self.lstm, self.head) if hasattr(self, "head") else ()
        if isinstance(module, nn.Linear | nn.LSTM) and any(module is each for each in own):
            module.reset_parameters()


def _by_tweet(values: Tensor, visual: VisualBatch, otherwise: float) -> Tensor:
    """Values of the tweets that have regions (P,) as those of all tweets, *Shape:* (B,)."""
    every = values.new_full((len(visual["mask"]),), otherwise)
    return every.index_copy(0, visual["pictured"], values)
