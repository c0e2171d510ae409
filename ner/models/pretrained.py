"""Pretrained encoders for taggers: loaded from a folder or the hub, whole or not at all; how much they read at once.

What a tagger builds on them is left to :mod:`ner.models.base`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ner.encoder import packing
from pipeline.core import trust
from pipeline.core.errors import UserError
from pipeline.core.soundness import explained, refuse_unsound


def load_encoder(encoder: str | Path, revision: str | None, local_files_only: bool) -> PreTrainedModel:
    """An encoder with the weights of its checkpoint, in float32.

    Args:
        encoder: a folder or a hub name.
        revision: commit, branch or tag of a hub repository.
        local_files_only: whether to leave the hub alone.

    Raises:
        UserError: the checkpoint lacks weights that the encoder needs, or has no hidden states per sub-token.
    """
    trust.never_ask()
    if Path(encoder).is_dir():
        trust.inspect(Path(encoder), str(encoder))
    with explained(f"train.encoder: checkpoint {encoder} cannot be loaded"):
        loaded, report = AutoModel.from_pretrained(
            encoder,
            revision=revision,
            dtype=torch.float32,
            local_files_only=local_files_only,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with what is wrong
            trust_remote_code=False,
        )
    refuse_unsound(loaded, report, str(encoder), "choose another train.encoder", optional=["pooler."])
    if not hasattr(loaded.config, "hidden_size"):
        raise UserError(
            f"train.encoder: {encoder} is not an encoder of the BERT or RoBERTa kind: its config has no "
            "hidden_size; choose another checkpoint"
        )
    found: PreTrainedModel = loaded
    return found


def empty_encoder(settings: Mapping[str, Any]) -> PreTrainedModel:
    """An encoder of a config, its model_type included, whose weights are yet to be loaded."""
    others = {key: value for key, value in settings.items() if key != "model_type"}
    config = AutoConfig.for_model(settings["model_type"], **others)
    empty: PreTrainedModel = AutoModel.from_config(config, trust_remote_code=False)
    return empty


def longest_window(encoder: PreTrainedModel) -> int:
    """How many sub-tokens an encoder takes at once; the positions of a window may come behind one for padding."""
    most = getattr(encoder.config, "max_position_embeddings", None) or 0
    return (most if most > 0 else 512) - packing.first_position(encoder)
