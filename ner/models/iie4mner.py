"""IIE4MNER (Liu et al., Information Processing & Management 2024): words look at a picture's grid and at its objects.

"Multi-granularity cross-modality representation learning for named entity recognition on social media", arXiv
2210.14163. The encoder reads the tweet; vectors of words similar to each token are added (semantic augmentation); the
text then looks at regions of the picture (coarse) and at the names of its objects (fine). Pictures come in behind the
text, so both views share one encoder pass, and the text-only view is the cross-modal one with what was seen set to 0.

What differs from the published code: the CRF is over words and the house's labels, not over sub-tokens; only tokens'
first sub-tokens look at the picture, as no others are read; a tweet without a picture sees nothing, where the
published code takes an unrelated picture; words without a vector get none, where it takes one random vector for all.
Layers of attention are :mod:`ner.models.cross_attention`'s, vectors of words :mod:`ner.models.augmentation`'s.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from ner.bioes import allowed_transitions
from ner.crf.chain import LinearChainCRF
from ner.encoder import packing
from ner.encoder.dropout import Dropout
from ner.encoder.windows import MAX_SUBTOKENS_AT_ONCE
from ner.models.augmentation import augmented, recognized
from ner.models.base import TaggerModel
from ner.models.config import TaggerConfig
from ner.models.cross_attention import CrossLayer, LayerShape, PictureBranch, attention_bias
from ner.models.graph import GraphInput, GraphInputs
from ner.views import UNKNOWN_WORD, FurtherWords, ViewBatch
from ner.visual import N_OBJECTS, NO_OBJECT, UNKNOWN_OBJECT, VisualBatch, Visuals
from pipeline.core.files import portable
from pipeline.core.records import View
from pipeline.settings.training import Iie4mnerParams, TrainParams

_EMBEDDING_DEVIATION = 0.02  # of objects' embeddings, as published


class Text(NamedTuple):
    """The text of W windows of at most S sub-tokens, that score at most Q tokens each."""

    augmented: Tensor
    """X: the encoder's states and the words' vectors, *Shape:* (W, S, hidden_width)."""
    states: Tensor
    """M: what a layer of attention makes of them, *Shape:* (W, S, hidden_width)."""
    tokens: Tensor
    """M at the tokens' first sub-tokens, *Shape:* (W, Q, hidden_width)."""
    bias: Tensor
    """0 on sub-tokens and -inf on padding, *Shape:* (W, 1, 1, S)."""
    firsts: Tensor
    """positions of the tokens' first sub-tokens in the flattened windows, anything on padding, *Shape:* (W, Q)."""


class Iie4mnerTagger(TaggerModel):
    """Encoder, semantic augmentation, attention to grid and objects, linear emissions of M and F, CRF.

    With H the encoder's states, E the words' vectors (0 but at first sub-tokens), V the regions, O the objects, and
    `Self` and `Cross` a BERT layer each, with weights of its own wherever it is written:

        X = dropout(H + W E + b)             M = Self(X)                        A = Self(X)
        C₁ = Cross(M, Self(W V))             C₂ = Cross(M, Cross(Self(W V), M))
        C₃ = Cross(M, Self(O))               C₄ = Cross(M, Cross(Self(O), M))
        F = ReLU(W dropout([gate(C₁, C₂); gate(C₄, C₃)]) + b)
        emissions = W (U₁ M + U₂ F + c) + b  spans = W A + b

    The loss has `span_weight` times the negative log-likelihood of spans without types, in a CRF of its own. F is 0 for
    tweets without a picture and in the text-only view. Without features the first half of what F is made of is 0 and
    its layers are left out; without objects the other.
    """

    reads_context = False
    reads_visual = True
    one_graph = True
    table: Tensor | None
    """Vectors of words by their row, none for rows 0 and UNKNOWN_WORD, *Shape:* (n_words + 2, word_width)."""

    def add_layers(self, config: TaggerConfig) -> None:
        """Add all that stands between the encoder and the CRF, as far as the training data has what it reads."""
        self.options = Iie4mnerParams.model_validate(config.options or {})
        facts = config.facts or {}
        shape = LayerShape.of(self.encoder.config)
        width = shape.width
        self.register_buffer("table", None)
        if facts.get("words") is not None:
            self.table = torch.zeros(len(facts["words"]) + UNKNOWN_WORD + 1, facts["word_width"])
            self.augment = nn.Linear(facts["word_width"], width)
        self.augmented_dropout = Dropout(shape.dropout)
        self.text = CrossLayer(shape)
        self._last: Text | None = None
        if self.options.span_weight:
            self.spans = CrossLayer(shape)
            untyped = span_labels(self.labels)
            self.span_emission = nn.Linear(width, len(untyped))
            self.span_crf = LinearChainCRF(len(untyped), allowed_transitions(untyped), config.exclude_forbidden)
            self._span_of = [untyped.index(_span_label(label)) for label in self.labels]
        self.fuse_text = nn.Linear(width, width)
        self.coarse: PictureBranch | None = None
        self.fine: PictureBranch | None = None
        if config.views != "text_only":  # else nothing would train them
            self._add_branches(shape, facts)
        self.emission = nn.Linear(width, len(self.labels))

    def _add_branches(self, shape: LayerShape, facts: Mapping[str, Any]) -> None:
        width = shape.width
        if facts.get("region_width"):
            self.regions, self.regions_again = (nn.Linear(facts["region_width"], width) for _ in range(2))
            self.coarse = PictureBranch(shape, aware_first=False)
        if facts.get("object_labels"):
            self.objects = nn.Embedding(len(facts["object_labels"]) + UNKNOWN_OBJECT + 1, width)
            nn.init.normal_(self.objects.weight, std=_EMBEDDING_DEVIATION)
            self.fine = PictureBranch(shape, aware_first=True)
        if self.sees:
            self.join_dropout = Dropout(self.options.fusion_dropout)
            self.join = nn.Linear(2 * width, width)
            self.fuse_picture = nn.Linear(width, width, bias=False)

    @property
    def sees(self) -> bool:
        """Whether the cross-modal view differs from the text-only one at all."""
        return self.coarse is not None or self.fine is not None

    @classmethod
    def facts_of(cls, params: TrainParams, posts: Sequence[View], visuals: Visuals | None) -> dict[str, Any]:
        """As :meth:`ner.models.base.TaggerModel.facts_of`: shape of the features, and the labels of objects."""
        return (visuals or Visuals(None, None)).facts(posts)

    @classmethod
    def word_facts(cls, params: TrainParams, tokens: Iterable[str]) -> dict[str, Any]:
        """As :meth:`ner.models.base.TaggerModel.word_facts`: the tokens that have vectors, and the vectors' width."""
        if (file := params.word_vectors) is None:
            return {}
        words, vectors = augmented(file, params.iie4mner.neighbours, tokens)
        return {"words": words, "word_width": vectors.shape[1]}

    def fill(self, params: TrainParams) -> None:
        """As :meth:`ner.models.base.TaggerModel.fill`: the words' vectors, where facts name words."""
        if (file := params.word_vectors) is not None:
            config = self.config
            config.options = {**(config.options or {}), "word_vectors": portable(file)}
            if config.facts and self.table is not None:
                _, self.table[UNKNOWN_WORD + 1 :] = augmented(file, params.iie4mner.neighbours, config.facts["words"])

    def further_words(self, file: Path) -> FurtherWords:
        """As :meth:`ner.models.base.TaggerModel.further_words`; the table has such vectors behind its own."""
        if self.table is None:
            return super().further_words(file)
        words, named = (self.config.facts or {})["words"], (self.config.options or {}).get("word_vectors")
        own = self.table[: UNKNOWN_WORD + 1 + len(words)]
        neighbours = recognized(file, self.options.neighbours, words, own[UNKNOWN_WORD + 1 :], named)

        def take(tokens: Iterable[str]) -> dict[str, int]:
            further = neighbours.of(tokens)
            self.table = torch.cat([own, *(vector[None].to(own) for vector in further.values())])
            return {word: row for row, word in enumerate(further, len(own))}

        return take

    def emissions(self, view: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.emissions`."""
        parts = []
        for text, piece, seen in self._pieces(view, visual):
            fused = self.fuse_text(text.tokens)
            if self.sees and (seen is not None or self._exchanges_gradients):
                fused = fused + self.fuse_picture(self._seen(text, piece, seen))
            parts.append(fused)
        return self._emitted(torch.cat(parts) if len(parts) > 1 else parts[0], view, _firsts(view)[1])

    @torch.no_grad()
    def grid_attention(self, view: ViewBatch, visual: VisualBatch) -> Tensor | None:
        """As :meth:`ner.models.base.TaggerModel.grid_attention`: what C₁ attends to, a mean over heads; 1 in all.

        None where the tagger has learned without features.
        """
        if self.coarse is None:
            return None
        parts = []
        for text, piece, seen in self._pieces(view, visual):
            assert seen is not None, "a piece of what the pictures give"
            regions, mask = self._regions_of(seen)
            of = piece["tweets"]
            weights = self.coarse.direct_weights(text.tokens, self.regions(regions), mask, of)
            parts.append(weights.masked_fill(~mask[of, None], 0.0)[..., : visual["mask"].shape[1]])
        return _placed(torch.cat(parts), view, _firsts(view)[1])

    def two_view_emissions(
        self, text_only: ViewBatch, cross_modal: ViewBatch, visual: VisualBatch | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`ner.models.base.TaggerModel.two_view_emissions`: both views' text is the same, and is read once."""
        firsts, mask = _firsts(text_only)
        text = self._read(text_only, firsts)
        fused = other = self.fuse_text(text.tokens)
        if self.sees and (visual is not None or self._exchanges_gradients):
            other = fused + self.fuse_picture(self._seen(text, text_only, visual))
        return self._emitted(fused, text_only, mask), self._emitted(other, text_only, mask)

    def graph_inputs(self, *, with_pictures: bool) -> list[GraphInput]:
        """As :meth:`ner.models.base.TaggerModel.graph_inputs`."""
        if with_pictures and not self.sees:
            return super().graph_inputs(with_pictures=True)
        names = super().graph_inputs(with_pictures=False)
        if self.table is not None:
            names.append("words")
        if with_pictures:
            names += ["present"]
            names += ["regions", "region_mask"] if self.coarse is not None else []
            names += ["objects"] if self.fine is not None else []
        return names

    def token_emissions(self, inputs: GraphInputs) -> Tensor:
        """As :meth:`ner.models.base.TaggerModel.token_emissions`; every sub-token looks at the picture."""
        mask, firsts = inputs["attention_mask"], inputs["firsts"]
        hidden = self.encoder(inputs["input_ids"], attention_mask=mask).last_hidden_state
        augmented, bias = self._augmented(hidden, inputs.get("words")), attention_bias(mask != 0)
        states = self.text(augmented, augmented, bias)
        text = Text(augmented, states, states, bias, firsts)
        fused = self.fuse_text(states)
        if "present" in inputs:
            each = {"tweets": torch.arange(mask.shape[0])}  # a window is as good as a tweet here
            visual = {"present": inputs["present"] != 0}
            if self.coarse is not None:
                visual |= {"regions": inputs["regions"], "mask": inputs["region_mask"] != 0}
            if self.fine is not None:
                visual["objects"] = inputs["objects"]
            fused = fused + self.fuse_picture(self._seen(text, cast("ViewBatch", each), cast("VisualBatch", visual)))
        return self.emission(self.with_casing_in_graph(fused.flatten(0, 1)[firsts], inputs))

    def extra_losses(
        self, labels: Tensor, mask: Tensor, text_only: ViewBatch | None, cross_modal: ViewBatch | None
    ) -> dict[str, Tensor]:
        """The weighted loss of spans: which tokens are in an entity, whatever its type."""
        if not self.options.span_weight:
            return {}
        view = text_only if text_only is not None else cast("ViewBatch", cross_modal)
        text = self._last if self._last is not None else self._read(view, _firsts(view)[0])
        self._last = None
        tokens = self.spans(_at(text.augmented, text.firsts), text.augmented, text.bias)
        emissions = _placed(self.span_emission(tokens), view, _firsts(view)[1])
        spans = torch.tensor(self._span_of, device=labels.device)[labels]
        likelihood = self.span_crf.log_likelihood(emissions, spans, mask)
        return {"spans": -self.options.span_weight * likelihood.mean()}

    @property
    def _exchanges_gradients(self) -> bool:
        """Whether every layer must have a gradient, as processes that train together expect, without pictures, too."""
        return torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized()

    def _read(self, view: ViewBatch, firsts: Tensor) -> Text:
        """The text of a view whose tokens' first sub-tokens stand at `firsts`, *Shape:* (W, Q)."""
        bias = attention_bias(view["attention_mask"] != 0)
        augmented = self._augmented(self._encoded(view, bias), view.get("words"))
        states = self.text(augmented, augmented, bias)
        text = Text(augmented, states, _at(states, firsts), bias, firsts)
        kept = self.options.span_weight and torch.is_grad_enabled()
        self._last = text if kept else None  # for the loss of spans, which follows
        return text

    def _encoded(self, view: ViewBatch, bias: Tensor) -> Tensor:
        """H, the encoder's states of all sub-tokens, anything on padding, *Shape:* (W, S, hidden_width)."""
        ids, places = view["input_ids"], view["places"]
        if not self.packs:
            padded: Tensor = self.encoder(ids, attention_mask=view["attention_mask"]).last_hidden_state
            return padded
        every = torch.arange(len(places), device=places.device)
        part = packing.Part(ids.flatten()[places], places, places % ids.shape[1], None, bias[:, 0, 0], every)
        hidden = packing.encode_parts(self.encoder, [part])
        return hidden.new_zeros(ids.numel(), hidden.shape[-1]).index_copy(0, places, hidden).view(*ids.shape, -1)

    def _augmented(self, hidden: Tensor, words: Tensor | None) -> Tensor:
        """X, the encoder's states and the vectors of the words that begin there, *Shape:* (W, S, hidden_width)."""
        if self.table is not None:
            if words is None:
                raise ValueError("this tagger has word vectors: its views need `words`")
            hidden = hidden + self.augment(self.table[words])
        augmented: Tensor = self.augmented_dropout(hidden)
        return augmented

    def _pieces(
        self, view: ViewBatch, visual: VisualBatch | None
    ) -> Iterator[tuple[Text, ViewBatch, VisualBatch | None]]:
        """The text of a view, without gradients in pieces that fit memory, and the view and pictures of each."""
        n_windows, width = view["input_ids"].shape
        at_once = n_windows if torch.is_grad_enabled() else max(1, MAX_SUBTOKENS_AT_ONCE // width)
        firsts, _ = _firsts(view)
        for begin in range(0, n_windows, at_once):
            piece, seen = (view, visual) if at_once >= n_windows else _piece(view, visual, begin, begin + at_once)
            yield self._read(piece, (firsts[begin : begin + at_once] - begin * width).clamp_min(0)), piece, seen

    def _regions_of(self, visual: VisualBatch) -> tuple[Tensor, Tensor]:
        """Features of tweets' regions (B, R, region_width), R at least 1, and True on regions, *Shape:* (B, R)."""
        regions, mask = visual["regions"].float(), visual["mask"]
        if mask.shape[1]:
            return regions, mask
        return regions.new_zeros(len(mask), 1, self.regions.in_features), mask.new_zeros(len(mask), 1)

    def _seen(self, text: Text, view: ViewBatch, visual: VisualBatch | None) -> Tensor:
        """F, what the tokens see: 0 without a picture, *Shape:* (W, Q, hidden_width)."""
        if visual is None:
            visual = _no_picture(len(view["mask"]), view["mask"].device)
        of = view["tweets"]
        coarse = fine = torch.zeros_like(text.tokens)
        if self.coarse is not None:
            regions, mask = self._regions_of(visual)
            items = self.regions(regions), self.regions_again(regions)
            coarse = self.coarse(text.tokens, text.states, text.bias, items, mask, of)
            coarse = torch.where(mask.any(1)[of, None, None], coarse, 0.0)
        if self.fine is not None:
            objects = self.objects(visual["objects"])
            mask = visual["objects"] != NO_OBJECT
            fine = self.fine(text.tokens, text.states, text.bias, (objects, objects), mask, of)
        joined = torch.relu(self.join(self.join_dropout(torch.cat([coarse, fine], -1))))
        return torch.where(visual["present"][of, None, None], joined, 0.0)

    def _emitted(self, fused: Tensor, view: ViewBatch, mask: Tensor) -> Tensor:
        """Emissions from the fused vectors of windows' tokens, *Shape:* (B, L, n_labels)."""
        emissions: Tensor = self.emission(self.drop_words(self.with_casing(_placed(fused, view, mask), [view])))
        return emissions


def span_labels(labels: Sequence[str]) -> list[str]:
    """The labels of spans without types that a tagger's labels give, in their order."""
    return list(dict.fromkeys(map(_span_label, labels)))


def _span_label(label: str) -> str:
    return label if label == "O" else f"{label[0]}-span"


def _firsts(view: ViewBatch) -> tuple[Tensor, Tensor]:
    """Where the tokens that each window scores have their first sub-tokens.

    Returns:
        positions in the flattened windows, 0 on padding, *Shape:* (W, Q).
        True on tokens, *Shape:* (W, Q).
    """
    n_windows, width = view["input_ids"].shape
    if n_windows == len(view["mask"]):  # each tweet has one window
        return view["rows"] * width + view["positions"], view["mask"]
    rows, slots = _slots(view)
    longest = min(width, view["mask"].shape[1])
    firsts = rows.new_zeros(n_windows, longest)
    mask = torch.zeros(n_windows, longest, dtype=torch.bool, device=rows.device)
    firsts[rows, slots] = rows * width + view["positions"].flatten()[view["tokens"]]
    mask[rows, slots] = True
    return firsts, mask


def _slots(view: ViewBatch) -> tuple[Tensor, Tensor]:
    """For each of N tokens, its window and how many tokens before it that window scores, *Shape:* (N,) each."""
    rows = view["rows"].flatten()[view["tokens"]]  # ascending: no window scores a token before one of the window before
    counts = torch.zeros(len(view["tweets"]), dtype=torch.long, device=rows.device)
    counts.index_add_(0, rows, torch.ones_like(rows))
    return rows, torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]


def _at(states: Tensor, places: Tensor) -> Tensor:
    """States (W, S, width) at places in the flattened windows, *Shape:* (W, Q, width)."""
    return states.flatten(0, 1).index_select(0, places.flatten()).view(*places.shape, -1)


def _placed(vectors: Tensor, view: ViewBatch, mask: Tensor) -> Tensor:
    """Vectors of windows' tokens (W, Q, width) as those of tweets' tokens, *Shape:* (B, L, width)."""
    if len(vectors) == len(view["mask"]):
        return vectors
    found = vectors.new_zeros(view["mask"].numel(), vectors.shape[-1])
    return found.index_copy(0, view["tokens"], vectors[mask]).view(*view["mask"].shape, -1)


def _piece(view: ViewBatch, visual: VisualBatch | None, begin: int, end: int) -> tuple[ViewBatch, VisualBatch | None]:
    """The windows from `begin` to `end` alone, and what the pictures of their tweets give."""
    attention_mask, tweets = view["attention_mask"][begin:end], view["tweets"][begin:end]
    first, last = int(tweets[0]), int(tweets[-1]) + 1
    piece = {
        "input_ids": view["input_ids"][begin:end],
        "attention_mask": attention_mask,
        "places": attention_mask.flatten().nonzero().squeeze(1),
        "tweets": tweets - first,
    }
    if "words" in view:
        piece["words"] = view["words"][begin:end]
    if visual is not None:
        names: tuple[Literal["regions", "mask", "present", "objects"], ...] = ("regions", "mask", "present", "objects")
        visual = cast("VisualBatch", {**visual, **{name: visual[name][first:last] for name in names}})
    return cast("ViewBatch", {**view, **piece}), visual


def _no_picture(n_tweets: int, device: torch.device) -> VisualBatch:
    """What :meth:`Iie4mnerTagger._seen` reads of tweets without pictures."""
    nothing = {
        "regions": torch.zeros(n_tweets, 0, 0, device=device),
        "mask": torch.zeros(n_tweets, 0, dtype=torch.bool, device=device),
        "present": torch.zeros(n_tweets, dtype=torch.bool, device=device),
        "objects": torch.full((n_tweets, N_OBJECTS), NO_OBJECT, device=device),
    }
    return cast("VisualBatch", nothing)
