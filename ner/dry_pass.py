"""Whether a tagger can be trained on a local encoder, before anything is extracted for it; tried once.

What is tried is :mod:`ner.models.trial`'s. torch and the weights are loaded only where the store does not know the
outcome for the same encoder, windows, code and packages. Saved taggers that are to teach are looked at as well.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.hashes import modules_digest
from pipeline.core.store import Store, digest
from pipeline.settings.training import TrainParams

_ROOT = Path(__file__).parents[1]
CODE = ("ner/bioes.py", "ner/views.py", "ner/visual.py", "ner/crf", "ner/encoder", "ner/models", "pipeline/core")
"""The rooms that decide the outcome."""

_FACTS = {"region_width": 16, "n_cells": 49, "object_labels": ["person"]}
"""Of the pictures, for systems that read them: as many regions as ResNet's."""
_LABELS = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]  # an encoder that works with some works with any


def require_trainable(params: TrainParams) -> None:
    """Try the encoder of `params`, or recall what came of it; one of the hub, or for flair, is left to training.

    Args:
        params: the section `train` of params.yaml, whose encoder :func:`pipeline.core.checkpoints.require` has found.

    Raises:
        UserError: no tagger can be trained on it, with the reason; or a saved tagger that is to teach is none.
    """
    _check_teachers(params)
    folder = Path(params.encoder).expanduser()
    if params.trainer == "flair" or not folder.is_dir():
        return
    windows = {"max_length": params.max_length, "max_context": params.max_context, "stride": params.stride}
    options = params.system_options.model_dump(mode="json")
    tried = {
        "system": params.model,
        "views": params.views,
        "options": options,
        **windows,
        "encoder": checkpoints.digest(folder),
    }
    key = digest(tried)
    with Store.open() as store:
        results = digest({"dry_pass": _fingerprint()})
        known = store.get_many(results, [key])
        if key not in known:
            known[key] = json.dumps(_try(params, folder)).encode()
            store.put_many(results, known)
    if reason := json.loads(known[key]):
        raise UserError(f"{params.encoder} {reason}")


def _check_teachers(params: TrainParams) -> None:
    """Look at the configs of the saved taggers that teach, where there are some."""
    if params.teacher.folders:
        from ner.models.folder import require_teacher  # torch is loaded only where it is needed

        for folder in params.teacher.folders:
            require_teacher(folder, params)


def _fingerprint() -> dict[str, str]:
    packages = ("safetensors", "tokenizers", "torch", "transformers")
    return {"code": modules_digest(_ROOT, CODE), **{name: version(name) for name in packages}}


def _try(params: TrainParams, folder: Path) -> str | None:
    """Why a tagger cannot be trained on the encoder, or None.

    Raises:
        UserError: the checkpoint cannot be loaded, or has a tokenizer that does not serve.
    """
    print(f"a dry pass over {params.encoder}, once; the store keeps its outcome", file=sys.stderr)
    from ner.models.folder import load_tokenizer, quietly, view_encoder
    from ner.models.registry import tagger_class
    from ner.models.trial import obstacle

    with quietly():
        system = tagger_class(params.model)
        facts = _FACTS if system.reads_visual and params.views != "text_only" else {}
        model: Any = system.from_encoder(folder, _LABELS, params, facts=facts, local_files_only=True)
        tokenizer = load_tokenizer(folder, local_files_only=True)
        return obstacle(model, view_encoder(tokenizer, model.config))
