"""A tagger's folder, read: its config, its weights, its tokenizer; and the tokenizer of a pretrained encoder.

Which of the systems a folder holds stands in its config and is found in :mod:`ner.models.registry`. Folders that were
exported to ONNX are opened by :mod:`ner.loading`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from ner.models.base import TaggerModel
from ner.models.config import TaggerConfig
from ner.models.registry import tagger_class
from ner.views import UNKNOWN_WORD, ViewEncoder, WindowLimits
from pipeline.core import checksums, trust
from pipeline.core.errors import UserError
from pipeline.core.marks import Writing
from pipeline.core.soundness import explained, refuse_unsound, require_words
from pipeline.settings.training import TrainParams

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
    """The fast tokenizer of an encoder or of a saved tagger, ready for pre-split words.

    A byte-level BPE (RoBERTa's) takes words for the middle of one unless a space is put before each; whether this
    tokenizer does is asked of itself.

    Raises:
        UserError: the checkpoint has none, has one that is not fast, without a vocabulary, or that runs words together
            even so; or it needs its own code.
    """
    trust.never_ask()
    if Path(path).is_dir():
        trust.inspect(Path(path), str(path))

    def load(**extra: bool) -> Any:
        return AutoTokenizer.from_pretrained(
            path, revision=revision, local_files_only=local_files_only, trust_remote_code=False, **extra
        )

    with explained(f"checkpoint {path}: no tokenizer"):
        tokenizer = load()
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"{path}: expected a fast tokenizer (tokenizer.json), which maps sub-tokens to tokens; found "
                f"{type(tokenizer).__name__}, which has none in transformers; choose another encoder, such as "
                "cardiffnlp/twitter-roberta-base or FacebookAI/xlm-roberta-base for tweets"
            )
        require_words(tokenizer, str(path))
        if _runs_words_together(tokenizer):
            tokenizer = load(add_prefix_space=True)
            _put_spaces_before_words(tokenizer)  # not every class of tokenizer honours that option
            if _runs_words_together(tokenizer):
                raise UserError(
                    f"{path}: the tokenizer reads pre-split words as one ('a', 'b' as 'ab'), with add_prefix_space as "
                    "without; choose another encoder"
                )
    tokenizer.init_kwargs.pop("auto_map", None)  # else what is saved would name code that is not beside it
    return tokenizer


def _runs_words_together(tokenizer: Any) -> bool:
    def pieces(text: str | list[str]) -> list[int]:
        found: list[int] = tokenizer(
            text, is_split_into_words=not isinstance(text, str), add_special_tokens=False, verbose=False
        )["input_ids"]
        return found

    return pieces(["the", "a", "b"]) not in (pieces("the a b"), pieces(" the a b"))


def _put_spaces_before_words(tokenizer: Any) -> None:
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    step = backend["pre_tokenizer"] or {}
    for each in step.get("pretokenizers", [step]):
        if "add_prefix_space" in each:
            each["add_prefix_space"] = True
    tokenizer.backend_tokenizer.pre_tokenizer = Tokenizer.from_str(json.dumps(backend)).pre_tokenizer


def load_tagger(folder: str | Path) -> tuple[TaggerModel, ViewEncoder]:
    """A saved tagger and the encoder of its views, from nothing but their folder.

    Raises:
        UserError: the folder is missing, is not a tagger's, or its system is unknown; a file is not as it was saved,
            or the weights are not those of the config, all of them and no others.
    """
    folder = Path(folder)
    config = load_config(folder, "model*.safetensors")
    with explained(f"{folder}: the tagger cannot be loaded; {_AGAIN}"):
        loaded, report = tagger_class(config.system).from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with what is wrong
        )
        refuse_unsound(loaded, report, str(folder), _AGAIN, surplus=True)
        if loaded.config.packs is None:  # trained by flair, or before this was tried
            loaded.try_packing()
        encoder = load_view_encoder(folder, config)
        _refuse_another_tokenizer(encoder.tokenizer, loaded, folder)
    return loaded.eval(), encoder


_AGAIN = "copy, download or train it again"


def _refuse_another_tokenizer(tokenizer: Any, model: TaggerModel, folder: Path) -> None:
    last, known = max(tokenizer.get_vocab().values()), model.encoder.get_input_embeddings().weight.shape[0]
    if last >= known:
        raise UserError(
            f"{folder}: its tokenizer has sub-tokens up to {last}, its encoder knows {known}: tokenizer.json is "
            f"another tagger's; {_AGAIN}"
        )


def load_config(folder: Path, *weights: str) -> TaggerConfig:
    """The config of a saved tagger whose folder also has files of the patterns `weights`.

    Raises:
        UserError: the folder is missing or is not a tagger's, needs code or leads out of itself, or is not as it was
            saved.
    """
    for pattern in ("config.json", *weights, "tokenizer.json"):
        if not any(folder.glob(pattern)):
            raise UserError(
                f"{folder}: no tagger here ({pattern} is missing); name a tagger's folder, or train one "
                "(dvc repro train)"
            )
    trust.never_ask()
    found = trust.inspect(folder, str(folder)).get("model_type")
    if found != TaggerConfig.model_type:
        raise UserError(
            f"{folder}: expected a tagger (model_type {TaggerConfig.model_type!r}), found {found!r}; "
            "an encoder alone cannot tag: train one (dvc repro train)"
        )
    checksums.verify(folder, str(folder))
    with explained(f"{folder / 'config.json'}: not a tagger's config; {_AGAIN}"):
        config = TaggerConfig.from_pretrained(folder, local_files_only=True)
        Writing(config.marks)
        return config


def require_teacher(folder: Path, params: TrainParams) -> TaggerConfig:
    """The config of a saved tagger that is to teach another.

    Args:
        folder: of a saved tagger.
        params: the section `train` of params.yaml.

    Raises:
        UserError: it is no tagger's, or labels of its kind are not what the student is to find.
    """
    try:
        config = load_config(folder, "model*.safetensors")
    except UserError as error:
        raise UserError(f"train.teacher.taggers: {error}") from None
    found = "bioes" if any(label[:2] in ("E-", "S-") for label in config.tag_labels or []) else "iob2"
    if found != params.scheme:
        raise UserError(
            f"train.teacher.taggers: {folder} finds labels of scheme {found}, but train.scheme is {params.scheme}; "
            "make the two the same"
        )
    if params.exclude_forbidden and not config.exclude_forbidden:
        raise UserError(
            f"train.teacher.taggers: {folder} was trained with exclude_forbidden: false, so that it takes for possible "
            "what train.exclude_forbidden: true rules out; make the two the same"
        )
    return config


def load_view_encoder(folder: Path, config: TaggerConfig) -> ViewEncoder:
    """The encoder of a saved tagger's views.

    Raises:
        UserError: the folder has no tokenizer, or one without a vocabulary.
    """
    with explained(f"{folder}: the tagger's tokenizer cannot be loaded; {_AGAIN}"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        require_words(tokenizer, str(folder))
    return view_encoder(tokenizer, config)


def view_encoder(tokenizer: Any, config: TaggerConfig) -> ViewEncoder:
    """The encoder of views with the window limits a tagger was trained with."""
    limits = WindowLimits(config.max_length, config.max_context, config.stride, config.short_addresses)
    words = (config.facts or {}).get("words")
    table = None if words is None else {word: row for row, word in enumerate(words, UNKNOWN_WORD + 1)}
    return ViewEncoder(tokenizer, limits, table, casing=config.casing)
