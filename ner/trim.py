"""`python -m ner.trim ENCODER FOLDER`: an encoder with the sub-tokens alone that a data set's texts are cut into.

Of XLM-R's 250,002 sub-tokens, tweets of one language have a tenth, and their vectors are most of the weights: 192
million of the base model's 278. The encoder that is written cuts these texts as before, and gives the same vectors for
them, with less to load, to keep and to train. Other texts are cut into the sub-tokens that are left; of single
characters all are, so nothing becomes unknown that was not.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ner.models.folder import load_tokenizer, quietly
from ner.models.pretrained import load_encoder
from ner.views import ViewEncoder, WindowLimits
from pipeline.core import checkpoints, records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.files import numbered_lines, write_json
from pipeline.core.records import View
from pipeline.core.store import batched

VIEWS = Path("data/views")
_TOKENIZER, _CONFIG = "tokenizer.json", "tokenizer_config.json"
_AT_ONCE = 1000  # views


def trim(encoder: str, output: Path, views: Iterable[View], revision: str | None = None) -> tuple[int, int]:
    """Write an encoder with the sub-tokens that some views have, those of single characters, and the special ones.

    Args:
        encoder: a folder or a hub name.
        output: a folder to be; config, weights and tokenizer go there.
        views: tokens and contexts.
        revision: of a hub repository.

    Returns:
        how many sub-tokens there were, and how many are left.

    Raises:
        UserError: there is something at `output`, the checkpoint is missing or no encoder, or its tokenizer is of a
            kind whose sub-tokens are made of each other (BPE).
    """
    if output.exists():
        raise UserError(f"{output}: it is there already; expected a folder to be")
    folder = checkpoints.resolve(encoder, revision).folder
    with quietly():
        tokenizer, model = load_tokenizer(folder, local_files_only=True), load_encoder(folder, None, True)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    kind, given = backend["model"]["type"], _pieces(backend["model"], encoder)
    rows = model.get_input_embeddings().num_embeddings
    used = {number for number, piece in given.items() if len(piece.removeprefix("##")) == 1}
    used |= {each["id"] for each in backend["added_tokens"]} | set(tokenizer.all_special_ids)
    views = list(views)
    before = _cut(tokenizer, views)
    used.update(number for cut in before for number in cut)
    kept = {old: new for new, old in enumerate(sorted(number for number in used if number < rows))}
    _keep_rows(model, kept)
    with quietly():
        model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    vocabulary = {piece: kept[number] for number, piece in given.items() if number in kept}
    scores = dict(backend["model"]["vocab"]) if kind == "Unigram" else {}
    backend["model"]["vocab"] = [[piece, scores[piece]] for piece in vocabulary] if scores else vocabulary
    if backend["model"].get("unk_id") is not None:
        backend["model"]["unk_id"] = kept[backend["model"]["unk_id"]]
    for each in backend["added_tokens"]:
        each["id"] = kept[each["id"]]
    _renumber(backend["post_processor"], kept)
    write_json(output / _TOKENIZER, backend)
    settings = json.loads((output / _CONFIG).read_text(encoding="utf-8"))
    if "added_tokens_decoder" in settings:
        told = settings["added_tokens_decoder"].items()
        settings["added_tokens_decoder"] = {str(kept[int(number)]): token for number, token in told}
        write_json(output / _CONFIG, settings)
    (output / "vocab.txt").unlink(missing_ok=True)  # what BERT's tokenizer would be made of anew
    after = _cut(load_tokenizer(output, local_files_only=True), views)
    assert [[kept[number] for number in cut] for cut in before] == after
    return rows, len(kept)


def _pieces(vocabulary: Mapping[str, Any], encoder: str) -> dict[int, str]:
    """The sub-tokens of a tokenizer, by number."""
    if vocabulary["type"] == "Unigram":
        return dict(enumerate(piece for piece, _ in vocabulary["vocab"]))
    if vocabulary["type"] == "WordPiece":
        return {number: piece for piece, number in vocabulary["vocab"].items()}
    raise UserError(
        f"{encoder}: a tokenizer of the kind {vocabulary['type']}, whose sub-tokens are made of each other; expected "
        "Unigram (XLM-R's) or WordPiece (BERT's)"
    )


def _cut(tokenizer: Any, views: Iterable[View]) -> list[list[int]]:
    """The sub-tokens of views, each once with its context and once without."""
    encoder = ViewEncoder(tokenizer, WindowLimits(max_length=10**6, max_context=10**5, stride=1))
    found = []
    for some in batched(views, _AT_ONCE):
        for view in encoder.encode(some, with_context=True):
            found += view.windows
    return found


def _keep_rows(model: PreTrainedModel, kept: Mapping[int, int]) -> None:
    """Leave an encoder the vectors of some sub-tokens, under new numbers."""
    table: Any = model.get_input_embeddings()
    config: Any = model.config
    for name, number in vars(config).items():
        if name.endswith("_token_id") and number in kept:
            setattr(config, name, kept[number])
    weights = table.weight.detach()[list(kept)].clone()
    padding = None if table.padding_idx is None else kept[table.padding_idx]
    model.set_input_embeddings(nn.Embedding.from_pretrained(weights, freeze=False, padding_idx=padding))
    config.vocab_size = len(kept)


def _renumber(step: Any, kept: Mapping[int, int]) -> None:
    """Put new numbers to the special tokens of a tokenizer's last step."""
    if isinstance(step, list) and len(step) == 2 and isinstance(step[0], str) and isinstance(step[1], int):
        step[1] = kept[step[1]]
    elif isinstance(step, dict) and "ids" in step:
        step["ids"] = [kept[number] for number in step["ids"]]
    elif isinstance(step, dict | list):
        for each in step.values() if isinstance(step, dict) else step:
            _renumber(each, kept)


def _views(folder: Path, texts: Iterable[Path]) -> Iterator[View]:
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise UserError(f"{folder}: no views here (*.jsonl); run dvc repro views, or name another folder in --views")
    for path in files:
        yield from records.read(path, View, "views")
    for path in texts:
        yield from (View("-", line.split(), None, line) for _, line in numbered_lines(path) if line.strip())


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
        "--texts",
        metavar="FILE",
        type=Path,
        nargs="+",
        default=[],
        help="further texts, a line each, to be read as well",
    )
    arguments = parser.parse_args()
    views = _views(arguments.views, arguments.texts)
    before, after = trim(arguments.encoder, arguments.output, views, arguments.revision)
    print(f"{arguments.output}: {after:,} of {before:,} sub-tokens")


if __name__ == "__main__":
    run_cli(main)
