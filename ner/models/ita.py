"""The tagger: a transformers encoder and a CRF, trained on a tweet's two views at once, saved and loaded as one folder.

One network reads both views; the loss is ITA's (Wang et al., NAACL 2022): NLL of the text-only view, plus weighted NLL
of the cross-modal view, plus the weighted KL that draws the first to the second. Making tensors of tweets is left to
:mod:`ner.views`, the order of training to :mod:`ner.training.run`.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ner.bioes import allowed_transitions
from ner.crf.chain import LinearChainCRF
from ner.encoder import packing
from ner.encoder.dropout import replace_dropouts
from ner.models import alignment as alignment_forms
from ner.views import ViewBatch, ViewEncoder, WindowLimits
from pipeline.core.errors import UserError
from pipeline.settings.params import TrainParams

ONNX_GRAPH = "tagger.onnx"  # what tells an exported tagger's folder, see ner/interop/onnx.py

# Encoder passes without gradients take at most so many sub-tokens at once, so that a tweet of many windows fits memory.
MAX_SUBTOKENS_AT_ONCE = 32_768


class TaggerConfig(PreTrainedConfig):
    """What a folder must say to rebuild the tagger: the encoder's own config, the labels, the loss, the windows."""

    model_type = "sightread-tagger"

    encoder: dict[str, Any] | None = None  # the encoder's config, its model_type included
    tag_labels: list[str] | None = None  # BIOES, in the order of the emissions
    views: str = "both"
    alignment: str = "marginal"
    temperature: float = 4.0
    weight_text_only: float = 1.0
    weight_cross_modal: float = 0.5
    weight_alignment: float = 0.5
    detach_teacher: bool = True
    word_dropout: float = 0.1
    exclude_forbidden: bool = True  # transitions that BIOES forbids have probability 0 in training, too
    max_length: int = 512
    max_context: int = 256
    stride: int = 128


class CrossViewTagger(PreTrainedModel):
    """Encoder → first sub-token of each token → word dropout → linear emissions → CRF."""

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
            settings = dict(config.encoder)
            encoder = AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings))
        self.encoder = encoder
        self.labels = list(config.tag_labels)
        self.emission = nn.Linear(encoder.config.hidden_size, len(self.labels))
        self.crf = LinearChainCRF(len(self.labels), allowed_transitions(self.labels), config.exclude_forbidden)
        # Keeps the pooler, which nothing reads, from being trained or asking DDP for its gradient.
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        replace_dropouts(encoder)
        self.packs = packing.enable(encoder)
        self.post_init()

    @classmethod
    def from_encoder(
        cls, encoder: str | Path, labels: list[str], params: TrainParams, *, local_files_only: bool = False
    ) -> "CrossViewTagger":
        """A tagger on a pretrained encoder (a folder or a hub name) with fresh emissions and transitions.

        Raises:
            UserError: the checkpoint lacks weights that the encoder needs, or is of no kind that gives token vectors.
        """
        loaded, report = AutoModel.from_pretrained(
            encoder,
            revision=params.revision,
            dtype=torch.float32,
            local_files_only=local_files_only,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
        missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
        if missing or not hasattr(loaded.config, "hidden_size"):
            lacks = f"it lacks {len(missing)} weights ({missing[0]}, …)" if missing else "its config has no hidden_size"
            raise UserError(
                f"train.encoder: {encoder} is no whole encoder of the BERT or RoBERTa kind: {lacks}; "
                "choose another checkpoint"
            )
        weights = params.weights
        settings = json.loads(loaded.config.to_json_string(use_diff=False))
        settings.pop("_name_or_path", None)  # where the encoder lay on this machine, which is nobody's business
        config = TaggerConfig(
            encoder=settings,
            tag_labels=labels,
            views=params.views,
            alignment=params.alignment,
            temperature=params.temperature,
            weight_text_only=weights.text_only,
            weight_cross_modal=weights.cross_modal,
            weight_alignment=weights.alignment,
            detach_teacher=params.detach_teacher,
            word_dropout=params.word_dropout,
            max_length=min(params.max_length, longest_window(loaded.config)),
            max_context=params.max_context,
            stride=params.stride,
        )
        return cls(config, loaded)

    def emissions(self, *batches: ViewBatch) -> Tensor:
        """Emissions [B, L, K] of a view's batch (:class:`ner.views.ViewBatch`); of several, [views · B, L, K].

        Several are views of the same tweets.
        """
        if self.packs and all(map(_in_one_go, batches)):
            vectors = packing.encode_packed(self.encoder, batches)
        else:
            vectors = self._padded_vectors(batches)
        return self.emission(self._drop_words(vectors))

    def _padded_vectors(self, batches: Sequence[ViewBatch]) -> Tensor:
        vectors = []
        for batch in batches:
            input_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
            at_once = len(input_ids) if _in_one_go(batch) else max(1, MAX_SUBTOKENS_AT_ONCE // input_ids.shape[1])
            parts = zip(input_ids.split(at_once), attention_mask.split(at_once), strict=True)
            hidden = torch.cat([self.encode(ids, mask) for ids, mask in parts])
            vectors.append(hidden[batch["rows"], batch["positions"]])  # [B, L, hidden]
        return torch.cat(vectors)

    def forward(
        self,
        text_only: ViewBatch | None = None,
        cross_modal: ViewBatch | None = None,
        labels: Tensor | None = None,
        alignment_scale: float = 1.0,
    ) -> dict[str, Tensor]:
        """The training loss of B tweets, and its terms.

        Args:
            text_only: the tweets alone (needed unless the tagger trains on `cross_modal` only).
            cross_modal: the tweets with their contexts (needed unless it trains on `text_only` only).
            labels: [B, L] indices into `self.labels`, anything on padding.
            alignment_scale: times the KL term's weight, for its warm-up.

        Returns:
            `loss`, and detached `nll_text_only`, `nll_cross_modal`, `alignment`, means over tweets, each before its
            weight, where the tagger's mode has them.
        """
        given = {"text_only": text_only, "cross_modal": cross_modal}
        if labels is None:
            raise ValueError("the loss needs labels; use `emissions` to predict")
        mode = self.config.views
        if mode == "both" and text_only is not None and cross_modal is not None:
            return self._two_view_loss(text_only, cross_modal, labels, alignment_scale)
        batch = given.get(mode)
        if batch is None:
            raise ValueError(f"a tagger that trains on views {mode!r} needs their batches")
        loss = -self.crf.log_likelihood(self.emissions(batch), labels, batch["mask"]).mean()
        return {"loss": loss, f"nll_{mode}": loss.detach()}

    def _two_view_loss(
        self, text_only: ViewBatch, cross_modal: ViewBatch, labels: Tensor, alignment_scale: float
    ) -> dict[str, Tensor]:
        config, mask = self.config, text_only["mask"]
        student, teacher = self.emissions(text_only, cross_modal).chunk(2)
        log_likelihood, student_log_marginals, teacher_log_marginals = self.crf.two_views(
            student, teacher, labels, mask, detach_teacher=config.detach_teacher
        )
        nll_text_only, nll_cross_modal = -log_likelihood.mean(1)
        loss = config.weight_text_only * nll_text_only + config.weight_cross_modal * nll_cross_modal
        terms = {"nll_text_only": nll_text_only.detach(), "nll_cross_modal": nll_cross_modal.detach()}
        if config.alignment != "none":
            if config.detach_teacher:
                teacher = teacher.detach()
            views = alignment_forms.TwoViews(teacher, student, teacher_log_marginals, student_log_marginals, mask)
            divergence = alignment_forms.FORMS[config.alignment](self.crf, views, config.temperature).mean()
            loss = loss + alignment_scale * config.weight_alignment * config.temperature**2 * divergence
            terms["alignment"] = divergence.detach()
        return {"loss": loss, **terms}

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states [R, S, hidden] of sub-tokens [R, S]."""
        # No segment ids: an encoder that knows them gets zeros, its own default.
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    def _drop_words(self, vectors: Tensor) -> Tensor:
        """Word dropout as in flair: zeroes whole token vectors [B, L, hidden] in training, and rescales nothing."""
        if not self.training or not self.config.word_dropout:
            return vectors
        kept = torch.rand(vectors.shape[:2], device=vectors.device) >= self.config.word_dropout
        return vectors * kept.unsqueeze(-1).to(vectors.dtype)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, LinearChainCRF) or module is getattr(self, "emission", None):
            module.reset_parameters()


def _in_one_go(batch: ViewBatch) -> bool:
    return torch.is_grad_enabled() or batch["input_ids"].numel() <= MAX_SUBTOKENS_AT_ONCE


@contextmanager
def quietly() -> Iterator[None]:
    """Mutes what transformers says of expected things (an encoder's unused head, progress of loading)."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def longest_window(config: PreTrainedConfig) -> int:
    """How many sub-tokens an encoder takes at once, from its config."""
    return (getattr(config, "max_position_embeddings", None) or 512) - packing.first_position(config)


def load_tokenizer(path: str | Path, revision: str | None = None, *, local_files_only: bool = False) -> Any:
    """The fast tokenizer of an encoder or of a saved tagger, ready for pre-split words."""
    config = AutoConfig.from_pretrained(
        path, revision=revision, local_files_only=local_files_only, trust_remote_code=False
    )
    # Byte-level BPE (RoBERTa, not XLM-R) takes pre-split words only with a space before each.
    extra = {"add_prefix_space": True} if config.model_type in ("roberta", "gpt2", "longformer") else {}
    return AutoTokenizer.from_pretrained(
        path, revision=revision, local_files_only=local_files_only, trust_remote_code=False, **extra
    )


def load_tagger(folder: str | Path) -> tuple[CrossViewTagger, ViewEncoder]:
    """A saved tagger and the encoder of its views, from nothing but their folder.

    Raises:
        UserError: the folder is missing or is no tagger's.
    """
    folder = Path(folder)
    config = load_config(folder, "model*.safetensors")
    model = CrossViewTagger.from_pretrained(folder, config=config, local_files_only=True, use_safetensors=True).eval()
    return model, load_view_encoder(folder, config)


def load_config(folder: Path, *weights: str) -> TaggerConfig:
    """The config of a saved tagger whose folder also holds files of the patterns `weights`.

    Raises:
        UserError: the folder is missing or is no tagger's.
    """
    for pattern in ("config.json", *weights, "tokenizer.json"):
        if not any(folder.glob(pattern)):
            raise UserError(
                f"{folder}: no tagger here ({pattern} is missing); name a tagger's folder, or train one "
                "(dvc repro train)"
            )
    found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if found != TaggerConfig.model_type:
        raise UserError(
            f"{folder}: expected a tagger (model_type {TaggerConfig.model_type!r}), found {found!r}; "
            "an encoder alone cannot tag: train one (dvc repro train)"
        )
    return TaggerConfig.from_pretrained(folder, local_files_only=True)


def load_view_encoder(folder: Path, config: TaggerConfig) -> ViewEncoder:
    """The encoder of a saved tagger's views."""
    return view_encoder(AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False), config)


def view_encoder(tokenizer: Any, config: TaggerConfig) -> ViewEncoder:
    """The encoder of views with the window limits a tagger was trained with."""
    return ViewEncoder(tokenizer, WindowLimits(config.max_length, config.max_context, config.stride))


# Lets AutoTokenizer and AutoConfig read a tagger's folder without a guess at what it is.
AutoConfig.register(TaggerConfig.model_type, TaggerConfig)
