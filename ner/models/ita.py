"""ITA (Wang et al., NAACL 2022): the picture is text behind the tweet, and one network reads both views.

A view's emissions are a linear layer on each token's first sub-token; the two views differ in their text alone, so that
one encoder pass serves both. The loss and everything else are :class:`ner.models.base.TaggerModel`'s.

Not published: RpBERT's relation (Sun et al., AAAI 2021) as a gate of the context. A first pass gives r, the probability
that the context adds to the tweet's meaning; in a second one the context's sub-tokens are attended to as far as r says.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ner.encoder import packing, regions
from ner.encoder.windows import Windows, first_windows, in_one_go, token_vectors
from ner.models.base import TaggerModel
from ner.models.config import TaggerConfig
from ner.models.graph import GraphInput, GraphInputs
from ner.models.relation import log_probability, on_attention
from ner.views import EncodedView, ViewBatch, ViewName
from ner.visual import VisualBatch
from pipeline.settings.training import ItaParams


class ItaTagger(TaggerModel):
    """Encoder → first sub-token of each token → word dropout → linear emissions → CRF."""

    def add_layers(self, config: TaggerConfig) -> None:
        """Add the linear layer that makes emissions."""
        self.options = ItaParams.model_validate(config.options or {})
        self.emission = nn.Linear(self.encoder.config.hidden_size, len(self.labels))
        self.relation_head = None
        if self.options.gate != "none" and config.views != "text_only":
            self.relation_head = nn.Linear(self.encoder.config.hidden_size, 2)
        self._relation: Tensor | None = None

    @property
    def asks_relation(self) -> bool:
        """Whether there is a gate."""
        return self.relation_head is not None

    def emissions(self, view: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.emissions`; pictures are text in the view, so `visual` is not read."""
        if self.relation_head is None:
            return self._emissions([view])
        described = _described(view)
        if not len(described):
            self._relation = torch.zeros(len(view["mask"]), device=view["mask"].device)
            emissions = self._emissions([view])
            if not torch.is_grad_enabled():
                return emissions
            # Processes that train together expect every layer to have a gradient.
            return emissions + 0.0 * sum(parameter.sum() for parameter in self.relation_head.parameters())
        log_relation = self._log_relation(view, described)
        relation = log_relation.detach().exp()
        self._relation = relation.new_zeros(len(view["mask"])).index_copy(0, described, relation)
        gates = log_relation.new_zeros(len(view["mask"])).index_copy(
            0, described, on_attention(log_relation, self.options.gate)
        )
        vectors = token_vectors(view, partial(self._behind_gate, gates=gates))
        return self.emission(self.drop_words(self.with_casing(vectors, [view])))

    def relation(self, view: ViewBatch, visual: VisualBatch | None) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.relation`, of contexts: NaN for a tweet without one."""
        found = torch.full((len(view["mask"]),), torch.nan, device=view["mask"].device)
        if self.relation_head is None or not len(described := _described(view)):
            return found
        relation = self._log_relation(view, described).exp()
        return found.to(relation.dtype).index_copy(0, described, relation)

    def alignment_weights(self) -> Tensor | None:
        """As :meth:`ner.models.base.TaggerModel.alignment_weights`: r, where `weigh_alignment` says so."""
        found, self._relation = self._relation, None
        return found if self.options.weigh_alignment else None

    def two_view_emissions(
        self, text_only: ViewBatch, cross_modal: ViewBatch, visual: VisualBatch | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`ner.models.base.TaggerModel.two_view_emissions`, both views in one encoder pass."""
        if self.relation_head is not None:
            return super().two_view_emissions(text_only, cross_modal, visual)
        student, teacher = self._emissions([text_only, cross_modal]).chunk(2)
        return student, teacher

    def graph_inputs(self, *, with_pictures: bool) -> list[GraphInput]:
        """As :meth:`ner.models.base.TaggerModel.graph_inputs`."""
        names = super().graph_inputs(with_pictures=with_pictures)
        return names if self.relation_head is None else [*names, "closings", "leading"]

    def token_emissions(self, inputs: GraphInputs) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.token_emissions`."""
        input_ids, mask, firsts = inputs["input_ids"], inputs["attention_mask"], inputs["firsts"]
        if self.relation_head is not None:
            log_relation = log_probability(self.relation_head(self._encode(input_ids, mask)[:, 0]))
            gates = on_attention(log_relation, self.options.gate)
            behind = torch.arange(mask.shape[1], device=mask.device) > inputs["closings"][:, None]
            scores = torch.where(behind, gates[inputs["leading"]][:, None], 0.0)
            scores = torch.where(mask != 0, scores, -torch.inf)[:, None, None]
            mask = scores.expand(-1, 1, mask.shape[1], -1)  # onnxruntime's attention takes no bias for all queries
        if self.packs:
            with packing.wanted_alone(firsts):
                hidden = self._encode(input_ids, mask)[0]
        else:
            hidden = self._encode(input_ids, mask).flatten(0, 1)[firsts]
        return self.emission(self.with_casing_in_graph(hidden, inputs))

    def training_views(self, batch: Sequence[Mapping[ViewName, EncodedView]]) -> list[Mapping[ViewName, EncodedView]]:
        """Context dropout: replaces each tweet's cross-modal view by its text-only view at that probability.

        The two then differ by the encoder's dropout alone, and the KL term is a one-sided R-Drop (Liang et al.,
        NeurIPS 2021).
        """
        if not self.options.context_dropout:
            return list(batch)
        dropped = (torch.rand(len(batch)) < self.options.context_dropout).tolist()
        return [
            {**views, "cross_modal": views["text_only"]} if drop else views
            for views, drop in zip(batch, dropped, strict=True)
        ]

    def _emissions(self, batches: Sequence[ViewBatch]) -> Tensor:
        """Emissions of several views of the same tweets, *Shape:* (views · B, L, n_labels)."""
        if self.packs and all(map(in_one_go, batches)):
            vectors = packing.encode_packed(self.encoder, batches)
        else:
            vectors = torch.cat([token_vectors(batch, self._firsts) for batch in batches])
        return self.emission(self.drop_words(self.with_casing(vectors, batches)))

    def _firsts(self, windows: Windows) -> Tensor:
        """Hidden states of the tokens' first sub-tokens, *Shape:* (N, hidden_width)."""
        hidden = self._encode(windows.input_ids, windows.attention_mask)
        return hidden.flatten(0, 1)[windows.places[windows.firsts]]

    def _log_relation(self, view: ViewBatch, described: Tensor) -> Tensor:
        """log r of the tweets that have a context, from their first windows, *Shape:* (P,)."""
        assert self.relation_head is not None, "asked for where there is a gate"
        windows = first_windows(view, described)
        if self.packs:
            hidden = packing.encode_parts(self.encoder, [packing.part_of(windows, windows.starts)])
        else:
            hidden = self._encode(windows.input_ids, windows.attention_mask)[:, 0]
        return log_probability(self.relation_head(hidden))

    def _behind_gate(self, windows: Windows, gates: Tensor) -> Tensor:
        """As :meth:`_firsts`, with something added to attention scores to contexts.

        Args:
            windows: T sub-tokens, N tokens.
            gates: what is added, by tweet, *Shape:* (B,).

        Returns:
            hidden states, *Shape:* (N, hidden_width).
        """
        part = packing.part_of(windows, windows.firsts)
        behind = torch.arange(part.bias.shape[1], device=part.bias.device) > windows.closings[:, None]
        open_to = torch.where(behind, gates[windows.tweets][:, None], 0.0)
        part = part._replace(bias=torch.where(windows.attention_mask != 0, open_to, -torch.inf))
        if self.packs:
            return packing.encode_parts(self.encoder, [part])
        part = part._replace(inputs=self.encoder.get_input_embeddings()(part.inputs))
        return regions.encode_padded(self.encoder, part, biased=True)

    def _encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states of sub-tokens (W, S), *Shape:* (W, S, hidden_width)."""
        # No segment ids: an encoder that has them takes zeros, its own default.
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        own = (self.emission, self.relation_head) if hasattr(self, "emission") else ()
        if isinstance(module, nn.Linear) and any(module is each for each in own):
            module.reset_parameters()


def _described(view: ViewBatch) -> Tensor:
    """The tweets that have a context, *Shape:* (P,)."""
    has = view["attention_mask"].sum(1) > view["closings"] + 1
    return view["tweets"][has].unique()
