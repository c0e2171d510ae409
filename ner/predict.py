"""Tagging views with a trained tagger: best labels, entities and their confidences, as a stream.

``Tagger.load(folder).predict(views)`` in Python, ``python -m ner.predict MODEL [FILE]`` on the command line, on text
alone if there is nothing else. A confidence is the CRF's own probability of the entity, not calibrated on data. How
views become tensors is left to :mod:`ner.views`, reading text and files to :mod:`ner.formats`.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from ner.formats import FORMATS, read_input
from ner.labels import to_iob2
from ner.tagger import ONNX_GRAPH, CrossViewTagger, load_tagger, quietly
from ner.views import EncodedView, ViewBatch, ViewEncoder, collate, length_sorted_batches
from pipeline import checkpoints
from pipeline.errors import UserError, run_cli
from pipeline.labels import entities
from pipeline.records import View
from pipeline.tokens import tokenize

if TYPE_CHECKING:
    from ner.onnx import OnnxTagger

DECODED_TOGETHER = 8  # so many of the encoder's batches go through the CRF at once
CHUNK_BATCHES = 16  # so many batches of views are sorted by length together; all that a stream keeps in memory


@dataclass(frozen=True, slots=True)
class FoundEntity:
    """Tokens `start` up to, not including, `end`; `text` joins them by spaces."""

    start: int
    end: int
    type: str
    text: str
    confidence: float  # probability of exactly this entity under the CRF, 0 to 1


@dataclass(frozen=True, slots=True)
class Prediction:
    """What data/predictions holds of a post; `labels` are gold (or None), `predicted` the tagger's, both IOB2."""

    id: str
    tokens: list[str]
    labels: list[str] | None
    predicted: list[str]
    entities: list[FoundEntity]
    context_used: str


def prediction_row(prediction: Prediction) -> dict[str, Any]:
    """The JSON object of a prediction."""
    return asdict(prediction)


class Tagger:
    """A trained tagger, ready to predict."""

    def __init__(self, model: "CrossViewTagger | OnnxTagger", encoder: ViewEncoder) -> None:
        self.model, self.encoder = model, encoder

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", revision: str | None = None) -> "Tagger":
        """Load a tagger from its folder alone, on torch or, if it is exported, on onnxruntime.

        Args:
            folder: a folder, or where there is none of that name, a hub repository (`owner/name`): its weights as
                safetensors, JSON and vocabularies are downloaded on first use, never a pickle or code.
            device: auto, cpu, cuda, cuda:1, …
            revision: commit, branch or tag of a hub repository.

        Raises:
            UserError: the folder holds no tagger, the hub does not give it, or there is no such device.
        """
        folder = _find(folder, revision)
        with quietly():
            if (Path(folder) / ONNX_GRAPH).exists():
                from ner import onnx  # onnxruntime is loaded where it is needed

                return cls(*onnx.load(Path(folder)))
            model, encoder = load_tagger(folder)
            return cls(model.to(choose_device(device)), encoder)

    def tag(self, text: str) -> Prediction:
        """Tag one text, split into tokens by :func:`pipeline.tokens.tokenize`."""
        [prediction] = self.predict([View("1", [token for token, _ in tokenize(text)], None, "")])
        return prediction

    def predict(
        self, views: Iterable[View], batch_size: int = 32, *, with_context: bool = True
    ) -> Iterator[Prediction]:
        """Tag views in order, reading no more than CHUNK_BATCHES batches ahead.

        Args:
            views: an empty context makes a text-only example.
            batch_size: encoder windows at once; changes no result but for float noise.
            with_context: False tags every view by its text alone.
        """
        stream = iter(views)
        while chunk := list(itertools.islice(stream, batch_size * CHUNK_BATCHES)):
            encoded = self.encoder.encode(chunk, with_context=with_context)
            yield from self._predict_chunk(chunk, encoded, batch_size)

    def _predict_chunk(
        self, chunk: Sequence[View], encoded: Sequence[EncodedView], batch_size: int
    ) -> Iterator[Prediction]:
        predicted: list[list[str]] = [[] for _ in chunk]
        confidences: dict[tuple[int, int], float] = {}  # by view and first token
        for indices, paths, emissions, mask in decode(self.model, encoded, self.encoder.pad_id, batch_size):
            found = []
            for row, (index, path) in enumerate(zip(indices, paths.tolist(), strict=True)):
                labels = [self.model.labels[label] for label in path[: len(encoded[index])]]
                predicted[index] = to_iob2(labels)
                found += [(row, start, end) for start, end, _ in entities(predicted[index], "conlleval")]
            if found:
                spans = torch.tensor(found, device=paths.device)
                scores = self.model.crf.span_log_probability(emissions, mask, paths, spans).exp()
                for (row, start, _), confidence in zip(found, scores.tolist(), strict=True):
                    confidences[indices[row], start] = confidence
        for index, (view, encoding, labels) in enumerate(zip(chunk, encoded, predicted, strict=True)):
            named = [FoundEntity(start, end, kind, " ".join(view.tokens[start:end]), confidences[index, start])
                     for start, end, kind in entities(labels, "conlleval")]
            yield Prediction(view.id, view.tokens, view.labels, labels, named, encoding.context_used)


def _find(tagger: str | Path, revision: str | None) -> Path:
    """A tagger's folder: one here, or of the hub's cache, which is filled on first use.

    `models/…` is never the hub's: it is what a pipeline writes that has perhaps not been run yet.
    """
    name, folder = str(tagger), Path(tagger)
    if folder.is_dir() or folder.parts[:1] == ("models",) or name.count("/") != 1 or not checkpoints.is_hub_name(name):
        if revision is not None:
            raise UserError(f"{tagger}: a local folder has no revision; leave it out")
        return folder
    return checkpoints.resolve(name, revision).folder


def decode(
    model: "CrossViewTagger | OnnxTagger", encoded: Sequence[EncodedView], pad_id: int, batch_size: int, *,
    bfloat16: bool = False,
) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
    """The best paths of all views, some DECODED_TOGETHER batches of the encoder's at a time.

    Decoding costs a few small operations a position, whatever the batch: so it is worth its while to wait.

    Yields:
        B views' indices, their paths [B, L] (indices into the model's labels), emissions [B, L, K] and mask [B, L].
    """
    device = model.device
    batches = length_sorted_batches(encoded, batch_size)
    while some := list(itertools.islice(batches, DECODED_TOGETHER)):
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
            emitted, masks = [], []
            for indices in some:
                batch = collate([encoded[index] for index in indices], pad_id)
                moved = ViewBatch({name: tensor.to(device) for name, tensor in batch.items()})
                emitted.append(model.emissions(moved))
                masks.append(moved["mask"])
            longest = max(mask.shape[1] for mask in masks)
            emissions = torch.cat([pad(each, (0, 0, 0, longest - each.shape[1])) for each in emitted])
            mask = torch.cat([pad(each, (0, longest - each.shape[1])) for each in masks])
            paths, _ = model.crf.viterbi(emissions, mask)
        yield list(itertools.chain.from_iterable(some)), paths, emissions, mask


def decode_labels(
    model: CrossViewTagger, encoded: Sequence[EncodedView], pad_id: int, batch_size: int, *, bfloat16: bool = False
) -> list[list[str]]:
    """The best IOB2 labels of every view, in order."""
    predicted: list[list[str]] = [[] for _ in encoded]
    for indices, paths, _, _ in decode(model, encoded, pad_id, batch_size, bfloat16=bfloat16):
        for index, path in zip(indices, paths.tolist(), strict=True):
            predicted[index] = to_iob2([model.labels[label] for label in path[: len(encoded[index])]])
    return predicted


def choose_device(device: str) -> torch.device:
    """``auto`` is the first GPU where there is one, else the CPU; of a GPU, its index comes with it.

    Raises:
        UserError: torch does not know the device, this machine has none of its kind, or it cannot run a tagger.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("mps"):
        raise UserError(f"execution.device: {device!r} has no float64, in which the CRF computes; use cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError):  # torch built without CUDA asserts
        raise UserError(f"execution.device: {device!r} is not to be had here; use auto or cpu") from None


def write_output(
    posts: Iterable[tuple[View, list[int] | None]], tagger: Tagger, batch_size: int, format_name: str, file: IO[str],
    *, with_context: bool = True
) -> None:
    """Tag posts and write them as they come, as prediction records (jsonl) or token<TAB>label lines (conll).

    Where a post came as text, its entities carry `start_char` and `end_char`, offsets into that text.
    """
    starts_of: list[list[int] | None] = []  # of the posts that the tagger has read and not yet given back

    def views() -> Iterator[View]:
        for view, starts in posts:
            starts_of.append(starts)
            yield view

    for prediction in tagger.predict(views(), batch_size, with_context=with_context):
        starts = starts_of.pop(0)
        if format_name == "conll":
            file.write(conll_lines(prediction))
            continue
        row = prediction_row(prediction)
        if starts is not None:
            for entity in row["entities"]:
                last = entity["end"] - 1
                entity |= {"start_char": starts[entity["start"]], "end_char": starts[last] + len(row["tokens"][last])}
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
    file.flush()


def conll_lines(prediction: Prediction) -> str:
    """A prediction as CoNLL-like text: an IMGID line, token<TAB>label lines, a blank line."""
    lines = [f"IMGID:{prediction.id}"]
    lines += [f"{token}\t{label}" for token, label in zip(prediction.tokens, prediction.predicted, strict=True)]
    return "\n".join([*lines, "", ""])


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m ner.predict", description="Find named entities in tweets.")
    parser.add_argument("model", metavar="MODEL",
                        help="a tagger's folder, such as models/tagger, or OWNER/NAME on the hub")
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="input; - or nothing: stdin")
    parser.add_argument("--format", choices=FORMATS, default="text",
                        help="text: a post a line; conll: token lines; jsonl: posts or views [%(default)s]")
    parser.add_argument("--output-format", choices=("jsonl", "conll"), help="[conll for conll, else jsonl]")
    parser.add_argument("--revision", help="commit, branch or tag of a tagger on the hub")
    parser.add_argument("--text-only", action="store_true",
                        help="leave out the context that posts of data/views bring along")
    parser.add_argument("--batch-size", type=int, default=32, help="posts the encoder reads at once [%(default)s]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … [%(default)s]")
    arguments = parser.parse_args()
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size: expected at least 1, found {arguments.batch_size}")
    tagger = Tagger.load(arguments.model, arguments.device, arguments.revision)
    output_format = arguments.output_format or ("conll" if arguments.format == "conll" else "jsonl")
    posts = tqdm(read_input(arguments.file, arguments.format), unit="post", disable=None)  # None: quiet if no terminal
    try:
        write_output(posts, tagger, arguments.batch_size, output_format, sys.stdout,
                     with_context=not arguments.text_only)
    except BrokenPipeError:  # whoever read the output has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    run_cli(main)
