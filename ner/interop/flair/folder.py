"""A tagger's folder in the environment `flair`: read file by file, without the classes that wrote it.

Its older transformers cannot load :mod:`ner.models`, which reads the same folders everywhere else.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.core import checksums, trust
from pipeline.core.errors import UserError
from pipeline.core.weights import load_weights

MODEL_TYPE = "sightread-tagger"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class TaggerFolder:
    """What a tagger's folder holds, read without the classes that wrote it.

    Raises:
        UserError: the folder is missing, or is not a tagger's.
    """

    def __init__(self, folder: Path) -> None:
        for pattern in ("config.json", "model*.safetensors", "tokenizer.json", "tokenizer_config.json"):
            if not any(folder.glob(pattern)):
                raise UserError(
                    f"{folder}: no tagger here ({pattern} is missing); name a tagger's folder, or train "
                    "one (dvc repro train)"
                )
        trust.inspect(folder, str(folder))
        checksums.verify(folder, str(folder))
        self.config: dict[str, Any] = _read_json(folder / "config.json")
        if self.config.get("model_type") != MODEL_TYPE:
            raise UserError(
                f"{folder}: expected a tagger (model_type {MODEL_TYPE!r}), found {self.config.get('model_type')!r}"
            )
        if self.config.get("casing"):
            raise UserError(
                f"{folder}: the tagger looks at how tokens are written (train.casing), which flair's does not; train "
                "one without"
            )
        if self.config.get("short_addresses"):
            raise UserError(
                f"{folder}: the tagger reads the first sub-token alone of web addresses (train.short_addresses), "
                "flair's all of them; train one without"
            )
        self.weights: dict[str, Tensor] = {}
        digest = hashlib.sha256()
        for file in sorted(folder.glob("model*.safetensors")):
            digest.update(file.read_bytes())
            self.weights |= load_weights(file)
        self.digest = digest.hexdigest()
        self.tokenizer: dict[str, Any] = _read_json(folder / "tokenizer.json")
        self.tokenizer |= {"truncation": None, "padding": None}  # for each call to say
        named = _read_json(folder / "tokenizer_config.json")
        self.special = {key: _content(named[key]) for key in SPECIAL if named.get(key) is not None}
        self.labels: list[str] = self.config["tag_labels"]

    @property
    def window(self) -> int:
        """Sub-tokens of an encoder window; flair puts windows together rightly where a quarter of it is a number."""
        return self.config["max_length"] - self.config["max_length"] % 4

    def encoder_weights(self) -> dict[str, Tensor]:
        """The encoder's weights by its own names."""
        return {
            name.removeprefix("encoder."): weight
            for name, weight in self.weights.items()
            if name.startswith("encoder.")
        }


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]
