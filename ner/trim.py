"""`python -m ner.trim ENCODER FOLDER`: an encoder with the sub-tokens alone that a data set's texts are cut into.

Of XLM-R's 250,002 sub-tokens, tweets of one language have a tenth, and their vectors are most of the weights: 192
million of the base model's 278. The encoder that is written cuts these texts as before, and gives the same vectors for
them, with less to load, to keep and to train. Other texts are cut into the sub-tokens that are left; those of single
characters are, so that little becomes unknown that was not.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ner.encoder.packing import first_position
from ner.models.folder import load_tokenizer, quietly
from ner.models.pretrained import load_encoder
from ner.views import ViewEncoder, WindowLimits
from pipeline.core import checkpoints, checksums, marks, records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.files import numbered_lines, write_json
from pipeline.core.marks import Writing
from pipeline.core.records import View
from pipeline.core.store import batched

VIEWS = Path("data/views")
_AT_ONCE = 1000  # views
_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def trim(encoder: str, output: Path, views: Sequence[View], revision: str | None = None) -> tuple[int, int]:
    """Write an encoder with the sub-tokens that some views have, those of single characters, and the special ones.

    Args:
        encoder: a folder or a hub name.
        output: a folder to be; config, weights, tokenizer and their checksums go there, all or nothing.
        views: tokens, also as taggers of theirs write mentions and hashtags, and contexts.
        revision: of a hub repository.

    Returns:
        how many sub-tokens there were, and how many are left.

    Raises:
        UserError: there is something at `output` or it cannot be written, the checkpoint is missing or no encoder, or
            its tokenizer is not of the kind Unigram or WordPiece, or has other tokens than the encoder.
    """
    if output.exists():
        raise UserError(f"{output}: it is there already; expected a folder to be")
    folder = checkpoints.resolve(encoder, revision).folder
    with quietly():
        tokenizer, model = load_tokenizer(folder, local_files_only=True), load_encoder(folder, None, True)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    pieces = _pieces(backend["model"], encoder)
    rows = model.get_input_embeddings().num_embeddings
    views = [*views, *_as_tagged(views)]
    used = _always(backend, pieces, model) | set(tokenizer.all_special_ids)
    used.update(number for cut in _cut(tokenizer, views) for number in cut)
    if beyond := [number for number in used if number >= rows]:
        raise UserError(
            f"{encoder}: its tokenizer has a token of number {min(beyond):,}, and the encoder vectors of {rows:,}; "
            "expected a checkpoint that was saved with the tokens added to it"
        )
    kept = {old: new for new, old in enumerate(sorted(used))}
    _keep_rows(model, kept)
    _renumber(backend, pieces, kept)
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as place:
            written = Path(place) / output.name
            with quietly():
                model.to(_dtype(folder)).save_pretrained(written)
                tokenizer.save_pretrained(written)
            write_json(written / "tokenizer.json", backend)
            found = _cut(load_tokenizer(written, local_files_only=True), views)
            for before, after in zip(_cut(tokenizer, views), found, strict=True):
                if [kept[number] for number in before] != after:
                    raise RuntimeError(f"{tokenizer.decode(before)!r} is cut otherwise: {before}, {after}")
            checksums.seal(written)
            os.rename(written, output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from None
    return rows, len(kept)


def _pieces(vocabulary: Mapping[str, Any], encoder: str) -> dict[int, str]:
    """The sub-tokens of a tokenizer, by number."""
    if vocabulary["type"] == "Unigram":
        return dict(enumerate(piece for piece, _ in vocabulary["vocab"]))
    if vocabulary["type"] == "WordPiece":
        return {number: piece for piece, number in vocabulary["vocab"].items()}
    raise UserError(
        f"{encoder}: a tokenizer of the kind {vocabulary['type']}; expected Unigram (XLM-R's) or WordPiece (BERT's), "
        "whose sub-tokens are not made of each other"
    )


def _always(backend: Mapping[str, Any], pieces: Mapping[int, str], model: PreTrainedModel) -> set[int]:
    """The numbers of sub-tokens that are kept whatever the texts are."""
    vocabulary: Mapping[str, Any] = backend["model"]
    inside = vocabulary.get("continuing_subword_prefix") or ""
    found = {number for number, piece in pieces.items() if len(piece.removeprefix(inside)) == 1}
    if vocabulary.get("byte_fallback"):
        found |= {number for number, piece in pieces.items() if len(piece) == 6 and piece.startswith("<0x")}
    if vocabulary["type"] == "Unigram":  # what is unknown scores by the least likely one
        scores = [score for _, score in vocabulary["vocab"]]
        found.add(scores.index(min(scores)))
    found |= {each["id"] for each in backend["added_tokens"]} | set(_special(model.config))
    table: Any = model.get_input_embeddings()
    if table.padding_idx is not None:  # where positions are counted from it, it must stay where it is
        found |= set(range(table.padding_idx + 1)) if first_position(model) else {table.padding_idx}
    return found


def _special(config: Any) -> Iterator[int]:
    """The numbers of sub-tokens that a config names."""
    for name, given in vars(config).items():
        if name.endswith("_token_id"):
            yield from (number for number in (given if isinstance(given, list) else [given]) if number is not None)


def _writing(views: Iterable[View]) -> Writing:
    """How the labelled ones write mentions and hashtags, as a tagger that is trained on them does."""
    return Writing(marks.count(view.tokens for view in views if view.labels is not None))


def _as_tagged(views: Sequence[View]) -> Iterator[View]:
    """Those of the views whose mentions or hashtags a tagger writes otherwise, written so."""
    writing = _writing(views)
    for view in views:
        if (found := writing.adapt(view.tokens)) is not None:
            yield replace(view, tokens=found[0], labels=None)


def _cut(tokenizer: Any, views: Iterable[View]) -> Iterator[list[int]]:
    """The sub-tokens of views with their contexts."""
    encoder = ViewEncoder(tokenizer, WindowLimits(max_length=10**6, max_context=10**5, stride=1))
    for some in batched(views, _AT_ONCE):
        for view in encoder.encode(some, with_context=True):
            yield from view.windows


def _keep_rows(model: PreTrainedModel, kept: Mapping[int, int]) -> None:
    """Leave an encoder the vectors of some sub-tokens, under new numbers, and no pooler, which nothing reads."""
    table: Any = model.get_input_embeddings()
    config: Any = model.config
    for name, given in vars(config).items():
        if name.endswith("_token_id") and given is not None:
            setattr(config, name, [kept[number] for number in given] if isinstance(given, list) else kept[given])
    weights = table.weight.detach()[list(kept)].clone()
    padding = None if table.padding_idx is None else kept[table.padding_idx]
    model.set_input_embeddings(nn.Embedding.from_pretrained(weights, freeze=False, padding_idx=padding))
    config.vocab_size = len(kept)
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()


def _renumber(backend: dict[str, Any], pieces: Mapping[int, str], kept: Mapping[int, int]) -> None:
    """Leave a tokenizer the sub-tokens that are kept, under new numbers."""
    vocabulary = backend["model"]
    if vocabulary["type"] == "Unigram":
        vocabulary["vocab"] = [pair for number, pair in enumerate(vocabulary["vocab"]) if number in kept]
        if vocabulary["unk_id"] is not None:
            vocabulary["unk_id"] = kept[vocabulary["unk_id"]]
    else:
        vocabulary["vocab"] = {piece: kept[number] for number, piece in pieces.items() if number in kept}
    for each in backend["added_tokens"]:
        each["id"] = kept[each["id"]]
    _renumber_step(backend["post_processor"], kept)


def _renumber_step(step: Any, kept: Mapping[int, int]) -> None:
    """Put new numbers to the special tokens of a tokenizer's last step."""
    if isinstance(step, list) and len(step) == 2 and isinstance(step[0], str) and isinstance(step[1], int):
        step[1] = kept[step[1]]
    elif isinstance(step, dict) and isinstance(step.get("ids"), list):
        step["ids"] = [kept[number] for number in step["ids"]]
    elif isinstance(step, dict | list):
        for each in step.values() if isinstance(step, dict) else step:
            _renumber_step(each, kept)


def _dtype(folder: Path) -> torch.dtype:
    """What the weights of a checkpoint are kept in."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _HALVES.get(str(config.get("dtype") or config.get("torch_dtype")), torch.float32)


def read_views(folder: Path, texts: Iterable[Path], *, test: bool) -> list[View]:
    """The views of a data set, and those of further texts, a line each.

    Args:
        folder: of the views.
        texts: files of more.
        test: whether the split `test` is read as well.

    Raises:
        UserError: there are no views, or a file is missing or malformed.
    """
    files = [path for path in sorted(folder.glob("*.jsonl")) if test or path.stem != "test"]
    views = [view for path in files for view in records.read(path, View, "views")]
    if not views:
        raise UserError(f"{folder}: no views here; run dvc repro views, or name another folder in --views")
    writing = _writing(views)
    for path in texts:
        lines = (line for _, line in numbered_lines(path) if line.strip())
        views += (View("-", [token for token, _ in writing.split(line)], None, line) for line in lines)
    return views


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m ner.trim", description="Write an encoder with the sub-tokens alone that texts are cut into."
    )
    parser.add_argument("encoder", metavar="ENCODER", help="a checkpoint's folder, or OWNER/NAME on the hub")
    parser.add_argument("output", metavar="FOLDER", type=Path, help="where to write it; for train.encoder")
    parser.add_argument("--revision", help="commit, branch or tag of a checkpoint on the hub")
    parser.add_argument("--views", metavar="FOLDER", type=Path, default=VIEWS, help="of the data set [%(default)s]")
    parser.add_argument(
        "--test",
        action="store_true",
        help="read the test split's texts as well: its scores are then those of the whole encoder, and say nothing of "
        "how texts are read that it was not made for",
    )
    parser.add_argument(
        "--texts", metavar="FILE", type=Path, action="append", default=[], help="further texts, a line each; repeatable"
    )
    arguments = parser.parse_args()
    views = read_views(arguments.views, arguments.texts, test=arguments.test)
    before, after = trim(arguments.encoder, arguments.output, views, arguments.revision)
    print(f"{arguments.output}: {after:,} of {before:,} sub-tokens")


if __name__ == "__main__":
    run_cli(main)
