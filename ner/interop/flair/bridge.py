"""Taggers as flair's SequenceTagger and back: a file that plain flair loads, and a folder of ours from such a file.

`python -m ner.flair_bridge export FOLDER FILE.pt` and `… import FILE.pt FOLDER --trust` run in the separate environment
`flair`, whose transformers is older than ours; so a tagger's folder is read and written file by file, without
:mod:`ner.models`. Training with flair is left to :mod:`ner.interop.flair.trainer`.

Of posts that fit one encoder window, flair finds in an exported tagger the entities that the tagger finds. Longer ones
are cut into windows by flair's rule (half of each shared with the next), not by ours.
"""

import json
import logging
import os
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ner.bioes import allowed_transitions
from ner.interop.flair.folder import MODEL_TYPE, SPECIAL, TaggerFolder
from ner.interop.flair.tokenizer import check_framing, read_any_text, tokenizer_archive
from pipeline.core import checksums
from pipeline.core.errors import UserError
from pipeline.core.files import write_json
from pipeline.core.weights import save_weights

TAG_TYPE = "ner"
IMPOSSIBLE = -10_000.0  # flair's own score of what must not be
_START, _STOP = "<START>", "<STOP>"


def to_flair(
    tagger: TaggerFolder,
    *,
    any_text: bool = True,
    tagger_class: type | None = None,
    embeddings_class: type | None = None,
) -> Any:
    """flair's SequenceTagger with a tagger's weights: the same score for every path.

    Args:
        any_text: make its tokenizer read every text as ours does: what would vanish as unknown, and no text as a
            special token, and in windows where it is long. False leaves tokenizer and vocabulary as they are, for
            those who bring their own sub-tokens.
        tagger_class, embeddings_class: a SequenceTagger and a TransformerWordEmbeddings to make instead.

    Raises:
        UserError: this environment's transformers does not know the encoder, or builds it differently.
    """
    from flair.data import Dictionary
    from flair.embeddings import TransformerWordEmbeddings
    from flair.models import SequenceTagger
    from transformers import AutoConfig

    settings = {
        key: value
        for key, value in tagger.config["encoder"].items()
        if key not in ("_name_or_path", "transformers_version")
    }
    weights, description, unknown_row = tagger.encoder_weights(), tagger.tokenizer, None
    if any_text:
        description, unknown_row = read_any_text(description, tagger.special)
    if unknown_row is not None:
        name, rows = _word_embeddings(weights, settings["vocab_size"])
        unknown = rows[_token_id(description, tagger.special["unk_token"])]
        weights[name] = torch.cat([rows[:unknown_row], unknown.unsqueeze(0), rows[unknown_row + 1 :]])
        settings["vocab_size"] = len(weights[name])
    kind = settings.pop("model_type")
    try:
        config = AutoConfig.for_model(kind, **settings)
    except ValueError as error:
        raise UserError(
            f"encoder of type {kind!r}: flair's transformers does not know it ({error}); it cannot be brought to flair"
        ) from None
    config.output_hidden_states = True  # flair reads these
    embeddings = (embeddings_class or TransformerWordEmbeddings)(
        model="",
        name="sightread",
        saved_config=config,
        layers="-1",
        subtoken_pooling="first",
        use_context=False,
        use_context_separator=False,
        allow_long_sentences=any_text,
        tokenizer_data=tokenizer_archive(description, tagger.special, tagger.window, split_special_tokens=any_text),
    )
    _load_encoder(embeddings.model, weights, kind)
    check_framing(embeddings.tokenizer, tagger.special)
    dictionary = Dictionary(add_unk=False)
    for label in tagger.labels:
        dictionary.add_item(label)
    model = (tagger_class or SequenceTagger)(
        embeddings,
        dictionary,
        TAG_TYPE,
        use_rnn=False,
        use_crf=True,
        reproject_embeddings=False,
        tag_format="BIOES",
        dropout=0.0,
        locked_dropout=0.0,
        word_dropout=tagger.config["word_dropout"],
    )
    _load_chain(model, tagger)
    return model.eval()


def _load_chain(model: Any, tagger: TaggerFolder) -> None:
    """Emissions and transitions; flair's transitions go from column to row, and its two extra labels are never met."""
    n_labels, weights = len(tagger.labels), tagger.weights
    start, stop = (model.label_dictionary.get_idx_for_item(name) for name in (_START, _STOP))
    allowed, may_start, may_stop = allowed_transitions(tagger.labels)
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.fill_(IMPOSSIBLE)
        model.linear.weight[:n_labels] = weights["emission.weight"]
        model.linear.bias[:n_labels] = weights["emission.bias"]
        chain = model.crf.transitions
        chain.fill_(IMPOSSIBLE)
        # Where our chain does not exclude in training what BIOES forbids, it still never decodes it.
        chain[:n_labels, :n_labels] = weights["crf.transitions"].masked_fill(~allowed, IMPOSSIBLE).T
        chain[:n_labels, start] = weights["crf.start"].masked_fill(~may_start, IMPOSSIBLE)
        chain[stop, :n_labels] = weights["crf.stop"].masked_fill(~may_stop, IMPOSSIBLE)


def _load_encoder(encoder: Any, weights: Mapping[str, Tensor], kind: str) -> None:
    loaded = encoder.load_state_dict(weights, strict=False)
    missing = [name for name in loaded.missing_keys if not name.startswith("pooler.")]
    if missing or loaded.unexpected_keys:
        differs = (missing or loaded.unexpected_keys)[0]
        raise UserError(
            f"encoder of type {kind!r}: flair's transformers builds it differently ({differs} is on one side "
            "only); it cannot be brought to flair"
        )
    with torch.no_grad():  # flair insists on a pooler, which nothing reads
        for name in loaded.missing_keys:
            encoder.get_parameter(name).zero_()


def _word_embeddings(weights: Mapping[str, Tensor], n_rows: int) -> tuple[str, Tensor]:
    for name in ("embeddings.word_embeddings.weight", "embeddings.tok_embeddings.weight", "embed_tokens.weight"):
        if name in weights and len(weights[name]) == n_rows:
            return name, weights[name]
    raise UserError(
        "the encoder's word embeddings were not found among its weights; an encoder of the BERT or RoBERTa "
        "kind can be brought to flair"
    )


def _token_id(description: Mapping[str, Any], token: str) -> int:
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(json.dumps(description)).token_to_id(token)
    if found is None:
        raise UserError(f"tokenizer.json: the special token {token!r} is not in its vocabulary")
    return found


def weights_from_flair(model: Any, labels: list[str]) -> dict[str, Tensor]:
    """A SequenceTagger's weights under our names, for `labels` in this order, without its start and stop labels."""
    start, stop = (model.label_dictionary.get_idx_for_item(name) for name in (_START, _STOP))
    keep = torch.tensor([model.label_dictionary.get_idx_for_item(label) for label in labels])
    chain = model.crf.transitions.detach().cpu()
    allowed, may_start, may_stop = allowed_transitions(labels)
    found = {
        "emission.weight": model.linear.weight.detach().cpu()[keep],
        "emission.bias": model.linear.bias.detach().cpu()[keep],
        "crf.transitions": chain[keep][:, keep].T,
        "crf.start": chain[keep, start],
        "crf.stop": chain[stop, keep],
        "crf.allowed_transitions": allowed,
        "crf.allowed_start": may_start,
        "crf.allowed_stop": may_stop,
    }
    for name, possible in (("transitions", allowed), ("start", may_start), ("stop", may_stop)):
        if bool((found[f"crf.{name}"][~possible] <= IMPOSSIBLE).all()):
            found[f"crf.{name}"] = found[f"crf.{name}"].masked_fill(~possible, 0.0)  # for the masks to exclude
    found |= {
        f"encoder.{name}": weight.detach().cpu()
        for name, weight in model.embeddings.model.state_dict().items()
        if not name.startswith("pooler.")
    }
    return {name: weight.contiguous() for name, weight in found.items()}


def excludes_forbidden(model: Any, labels: list[str]) -> bool:
    """Whether every transition that BIOES forbids is impossible in a SequenceTagger."""
    keep = torch.tensor([model.label_dictionary.get_idx_for_item(label) for label in labels])
    allowed, _, _ = allowed_transitions(labels)
    return bool((model.crf.transitions.detach().cpu()[keep][:, keep].T[~allowed] <= IMPOSSIBLE).all())


def supported_labels(model: Any, source: str) -> list[str]:
    """The labels of a SequenceTagger that our tagger can be.

    Raises:
        UserError: it has a part that our tagger lacks; all such parts are named.
    """
    from flair.embeddings import TransformerWordEmbeddings

    embeddings = model.embeddings
    labels = [label for label in model.label_dictionary.get_items() if label not in (_START, _STOP)]
    problems = [
        what
        for what, found in {
            "an RNN (use_rnn)": model.use_rnn,
            "no CRF (use_crf)": not model.use_crf,
            "a layer that reprojects embeddings (reproject_embeddings)": model.reproject_embeddings,
            f"labels that are not BIOES ({', '.join(labels[:3])}, …)": not all(
                label == "O" or re.match(r"[BIES]-.", label) for label in labels
            )
            or model.tag_format != "BIOES",
        }.items()
        if found
    ]
    if not isinstance(embeddings, TransformerWordEmbeddings):
        problems.append(f"embeddings of type {type(embeddings).__name__}, not TransformerWordEmbeddings")
    else:
        last = embeddings.model.config.num_hidden_layers
        problems += [
            what
            for what, found in {
                f"layers {embeddings.layer_indexes}, not the last alone": embeddings.layer_indexes
                not in ([-1], [last]),
                f"sub-tokens pooled by {embeddings.subtoken_pooling!r}, not 'first'": embeddings.subtoken_pooling
                != "first",
                "neighbouring sentences as context (use_context)": embeddings.context_length > 0,
                "a slow tokenizer": not embeddings.tokenizer.is_fast,
            }.items()
            if found
        ]
    if problems:
        raise UserError(
            f"{source}: our tagger is a transformer's last layer, first sub-tokens, a linear layer and a "
            f"CRF over BIOES; this one has {'; '.join(problems)}"
        )
    return labels


def quiet_flair() -> None:
    """Let flair say warnings alone, and on standard error: its log goes to standard output by itself."""
    import flair  # noqa: F401  (it sets its log up when it is imported)

    log = logging.getLogger("flair")
    log.setLevel(logging.WARNING)
    for handler in log.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)


def export_tagger(folder: Path, file: Path) -> None:
    """Write a tagger's folder as one file for flair, which needs nothing else and says where it came from."""
    import flair
    import transformers

    tagger = TaggerFolder(folder)
    model = to_flair(tagger)
    config = tagger.config
    origin = {
        key: config[key] for key in ("views", "alignment", "temperature", "word_dropout", "max_length") if key in config
    }
    model.model_card = {  # what flair's print_model_card shows
        "flair_version": flair.__version__,
        "pytorch_version": torch.__version__,
        "transformers_version": transformers.__version__,
        "training_parameters": {
            "origin": "a Sightread tagger, exported by python -m ner.flair_bridge",
            "weights_sha256": tagger.digest,
            "encoder": config["encoder"]["model_type"],
            **origin,
        },
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as temporary:
        model.save(Path(temporary) / file.name)
        os.replace(Path(temporary) / file.name, file)


def import_tagger(file: Path, folder: Path, *, trust: bool) -> None:
    """Write a SequenceTagger's file as a tagger's folder.

    Raises:
        UserError: without `trust`; there is no such file; it is no SequenceTagger, or one that ours cannot be.
    """
    require_trust(file, trust)
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: there is something in it; name a new folder")
    from flair.models import SequenceTagger

    try:
        model = SequenceTagger.load(file)
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"{file}: flair cannot load it as a SequenceTagger ({type(error).__name__}: {error})") from None
    labels = supported_labels(model, str(file))
    tokenizer = model.embeddings.tokenizer
    encoder = {
        key: value
        for key, value in model.embeddings.model.config.to_dict().items()
        if key
        not in (
            "_name_or_path",
            "transformers_version",
            "architectures",
            "output_hidden_states",
            "attn_implementation",
            "dtype",
            "torch_dtype",
        )
    }
    window = min(tokenizer.model_max_length, 512)
    config = {
        "model_type": MODEL_TYPE,
        "architectures": ["ItaTagger"],
        "system": "ita",
        "dtype": "float32",
        "encoder": encoder,
        "tag_labels": labels,
        "views": "text_only",
        "alignment": "none",
        "word_dropout": model.use_word_dropout,
        "exclude_forbidden": excludes_forbidden(model, labels),
        "max_length": window,
        "max_context": window // 2,
        "stride": window // 4,
    }
    description = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    special = {key: str(getattr(tokenizer, key)) for key in SPECIAL if getattr(tokenizer, key, None)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        save_weights(weights_from_flair(model, labels), temporary / "model.safetensors")
        write_json(temporary / "config.json", config)
        write_json(temporary / "tokenizer.json", description)
        write_json(
            temporary / "tokenizer_config.json",
            {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": window, **special},
        )
        checksums.seal(temporary)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_trust(file: Path, trust: bool) -> None:
    if not trust:
        raise UserError(
            f"{file}: flair's files are pickles, and loading one runs whatever code is in it; if you trust "
            "where it comes from, say so: --trust"
        )
