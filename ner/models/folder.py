"""A tagger's folder, read: its config, its weights, its tokenizer; and the tokenizer of a pretrained encoder.

Which of the systems a folder holds stands in its config and is found in :mod:`ner.models.registry`. Folders that were
exported to ONNX are opened by :mod:`ner.loading`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from ner.models.base import TaggerConfig, TaggerModel
from ner.models.registry import tagger_class
from ner.views import ViewEncoder, WindowLimits
from pipeline.core.errors import UserError

ONNX_GRAPH = "tagger.onnx"  # only in the folder of an exported tagger


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


def load_tagger(folder: str | Path) -> tuple[TaggerModel, ViewEncoder]:
    """A saved tagger and the encoder of its views, from nothing but their folder.

    Raises:
        UserError: the folder is missing, is not a tagger's, or its system is unknown.
    """
    folder = Path(folder)
    config = load_config(folder, "model*.safetensors")
    loaded = tagger_class(config.system).from_pretrained(
        folder, config=config, local_files_only=True, use_safetensors=True
    )
    return loaded.eval(), load_view_encoder(folder, config)


def load_config(folder: Path, *weights: str) -> TaggerConfig:
    """The config of a saved tagger whose folder also has files of the patterns `weights`.

    Raises:
        UserError: the folder is missing or is not a tagger's.
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
