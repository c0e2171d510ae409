"""ITA (Wang et al., NAACL 2022): the picture is text behind the tweet, and one network reads both views.

A view's emissions are a linear layer on each token's first sub-token; the two views differ in their text alone, so that
one encoder pass serves both. The loss and everything else are :class:`ner.models.base.TaggerModel`'s.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ner.encoder import packing
from ner.encoder.windows import Windows, in_one_go, token_vectors
from ner.models.base import TaggerConfig, TaggerModel
from ner.views import EncodedView, ViewBatch, ViewName
from ner.visual import VisualBatch
from pipeline.settings.params import ItaParams


class ItaTagger(TaggerModel):
    """Encoder → first sub-token of each token → word dropout → linear emissions → CRF."""

    def add_layers(self, config: TaggerConfig) -> None:
        """Add the linear layer that makes emissions."""
        self.options = ItaParams.model_validate(config.options or {})
        self.emission = nn.Linear(self.encoder.config.hidden_size, len(self.labels))

    def emissions(self, view: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.emissions`; pictures are text in the view, so `visual` is not read."""
        return self._emissions([view])

    def two_view_emissions(
        self, text_only: ViewBatch, cross_modal: ViewBatch, visual: VisualBatch | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`ner.models.base.TaggerModel.two_view_emissions`, both views in one encoder pass."""
        student, teacher = self._emissions([text_only, cross_modal]).chunk(2)
        return student, teacher

    def token_emissions(self, input_ids: Tensor, attention_mask: Tensor, firsts: Tensor) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.token_emissions`."""
        if self.packs:
            with packing.wanted_alone(firsts):
                hidden = self._encode(input_ids, attention_mask)[0]
        else:
            hidden = self._encode(input_ids, attention_mask).flatten(0, 1)[firsts]
        return self.emission(hidden)

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
        return self.emission(self.drop_words(vectors))

    def _firsts(self, windows: Windows) -> Tensor:
        """Hidden states of the tokens' first sub-tokens, *Shape:* (N, hidden_width)."""
        hidden = self._encode(windows.input_ids, windows.attention_mask)
        return hidden.flatten(0, 1)[windows.places[windows.firsts]]

    def _encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states of sub-tokens (W, S), *Shape:* (W, S, hidden_width)."""
        # No segment ids: an encoder that has them takes zeros, its own default.
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is getattr(self, "emission", None):
            module.reset_parameters()
