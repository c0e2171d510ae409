"""An exported tagger with nothing but onnxruntime, tokenizers and NumPy: no torch, no transformers.

``LightTagger.load(folder).tag("text")``, or ``python -m ner.light FOLDER [FILE]`` as :mod:`ner.predict`. It reads what
:mod:`ner.interop.onnx` exports of ITA's taggers, texts with their contexts, and finds the same entities with the same
confidences; what reads pictures as tensors needs torch. requirements-onnx.lock has all that it needs.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ner.bioes import allowed, to_iob2
from ner.formats import FORMATS, read_input
from ner.predictions import chunks, of_given, with_offsets
from ner.views import EncodedView, ViewEncoder, WindowLimits, length_sorted_batches
from pipeline.core import checksums, onnx_files, records, trust
from pipeline.core.errors import UserError, run_cli
from pipeline.core.files import contents, parse_object
from pipeline.core.labels import entities
from pipeline.core.machine import cores
from pipeline.core.marks import Writing
from pipeline.core.records import FoundEntity, Prediction, View

Floats = NDArray[Any]

GRAPH, MODEL_TYPE = "tagger.onnx", "sightread-tagger"
INPUTS = {"input_ids", "attention_mask", "firsts"}
"""What a graph may read here: sub-tokens, and where each token's first one is."""
_CHUNK_BATCHES = 16
_SPECIAL = ("cls", "sep", "bos", "eos", "unk", "pad")


class Chain:
    """A linear-chain CRF, as :class:`ner.crf.chain.LinearChainCRF`, of one sequence at a time, in float64.

    Args:
        labels: BIOES or IOB2, in the order of the emissions.
        transitions: scores, from row to column, *Shape:* (n_labels, n_labels).
        start: scores, *Shape:* (n_labels,).
        stop: scores, *Shape:* (n_labels,).
        exclude_forbidden: whether paths that the scheme forbids have probability 0; they are never the best either way.
    """

    def __init__(
        self, labels: Sequence[str], transitions: Floats, start: Floats, stop: Floats, *, exclude_forbidden: bool
    ) -> None:
        scores = [np.asarray(each, dtype=np.float64) for each in (transitions, start, stop)]
        self._best = [np.where(np.array(may), each, -np.inf) for may, each in zip(allowed(labels), scores, strict=True)]
        self._all = self._best if exclude_forbidden else scores

    def best_path(self, emissions: Floats) -> list[int]:
        """The best allowed path (Viterbi), label by label.

        Args:
            emissions: label scores of at least one token, *Shape:* (length, n_labels).
        """
        transitions, start, stop = self._best
        best, back = start + emissions[0], []
        for emitted in emissions[1:]:
            through = best[:, None] + transitions
            back.append(through.argmax(0))
            best = through.max(0) + emitted
        path = [int((best + stop).argmax())]
        for each in reversed(back):
            path.append(int(each[path[-1]]))
        return path[::-1]

    def span_probabilities(
        self, emissions: Floats, path: Sequence[int], spans: Sequence[tuple[int, int]]
    ) -> list[float]:
        """P(the tokens of a span carry exactly the path's labels), all else summed out: an entity's confidence.

        Args:
            emissions: label scores, *Shape:* (length, n_labels).
            path: labels.
            spans: first token, and the one behind the last.
        """
        transitions, start, stop = self._all
        forward, backward = [start + emissions[0]], [stop]
        for emitted in emissions[1:]:
            forward.append(_log_sum(forward[-1][:, None] + transitions, 0) + emitted)
        for emitted in emissions[:0:-1]:
            backward.append(_log_sum(transitions + (emitted + backward[-1]), 1))
        backward.reverse()
        partition = _log_sum(forward[-1] + stop, 0)
        found = []
        for first, end in spans:
            score = forward[first][path[first]] + backward[end - 1][path[end - 1]] - partition
            for place in range(first + 1, end):
                score += transitions[path[place - 1], path[place]] + emissions[place, path[place]]
            found.append(float(np.exp(min(score, 0.0))))
        return found


def _log_sum(scores: Floats, axis: int) -> Floats:
    most = scores.max(axis, keepdims=True)
    safe = np.where(np.isfinite(most), most, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(scores - safe).sum(axis)) + safe.squeeze(axis)


class _Encoded(dict[str, Any]):
    """What :class:`ner.views.ViewEncoder` asks of a tokenizer's answer."""

    def word_ids(self) -> list[int]:
        """The word that each sub-token is of."""
        found: list[int] = self["words"]
        return found


class _Tokenizer:
    """A saved fast tokenizer, as :class:`ner.views.ViewEncoder` asks one of transformers; tokenizer.json alone."""

    is_fast = True

    def __init__(self, folder: Path) -> None:
        self.name_or_path = str(folder)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # text that spells a special token is text
        file = folder / "tokenizer_config.json"
        named = parse_object(contents(file).decode(), str(file))
        tokens = {name: named.get(f"{name}_token") for name in (*_SPECIAL, "mask")}
        self._ids = {
            name: self._tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token)
            for name, token in tokens.items()
            if token is not None
        }
        self.all_special_ids = [each for each in self._ids.values() if each is not None]

    def __getattr__(self, name: str) -> Any:
        if name.removesuffix("_token_id") in _SPECIAL:
            return self._ids.get(name.removesuffix("_token_id"))
        raise AttributeError(name)

    def __call__(self, texts: list[str], *, is_split_into_words: bool = False, **_options: object) -> _Encoded:
        """Sub-tokens of the words of one text, or of several texts, without special tokens."""
        if is_split_into_words:
            found = self._tokenizer.encode(texts, is_pretokenized=True, add_special_tokens=False)
            return _Encoded(input_ids=found.ids, words=found.word_ids)
        several = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return _Encoded(input_ids=[each.ids for each in several], offset_mapping=[each.offsets for each in several])


class LightTagger:
    """An exported tagger, ready to predict; made by :meth:`load`.

    Args:
        session: of its graph.
        encoder: of its views.
        config: its config.json.
    """

    def __init__(self, session: onnxruntime.InferenceSession, encoder: ViewEncoder, config: dict[str, Any]) -> None:
        self.labels: list[str] = list(config["tag_labels"])
        self.writing = Writing(config.get("marks"))
        self._session, self._encoder = session, encoder
        one = {"input_ids": [[encoder.pad_id] * 3], "attention_mask": [[1, 1, 1]], "firsts": [1]}
        scores = session.run(("transitions", "start", "stop"), {name: np.array(each) for name, each in one.items()})
        self.chain = Chain(self.labels, *scores, exclude_forbidden=config.get("exclude_forbidden", True))
        self._threads = ThreadPoolExecutor(cores())

    @classmethod
    def load(cls, folder: str | Path) -> "LightTagger":
        """Load an exported tagger from its folder alone.

        Raises:
            UserError: the folder is none that ``python -m ner.onnx export`` has made, is not as it was made, or its
                graph reads more than text.
        """
        folder = Path(folder)
        for name in (GRAPH, "config.json", "tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder}: no exported tagger here ({name} is missing); expected a folder that python -m ner.onnx "
                    "export has made"
                )
        config = trust.inspect(folder, str(folder))
        if config.get("model_type") != MODEL_TYPE:
            raise UserError(f"{folder}: expected a tagger ({MODEL_TYPE}), found {config.get('model_type')!r}")
        checksums.verify(folder, str(folder))
        onnx_files.external_files(folder / GRAPH)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=["CPUExecutionProvider"])
            reads = {each.name for each in session.get_inputs()}
            if reads <= INPUTS:
                limits = WindowLimits(
                    config["max_length"],
                    config["max_context"],
                    config["stride"],
                    config.get("short_addresses", False),
                )
                return cls(session, ViewEncoder(_Tokenizer(folder), limits), config)
        except UserError:
            raise
        except Exception as error:  # of onnxruntime and of tokenizers, which share no other base
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{folder}: the tagger cannot be loaded ({first}); export or copy it again") from None
        more = ", ".join(sorted(reads - INPUTS))
        raise UserError(
            f"{folder}: a tagger of system {config.get('system')!r}, whose graph also reads {more}, needs torch: tag "
            "with python -m ner.predict"
        )

    def split(self, text: str) -> list[tuple[str, int]]:
        """As :meth:`ner.tagger.Tagger.split`."""
        return self.writing.split(text)

    def tag(self, text: str | Sequence[str], context: str = "") -> Prediction:
        """As :meth:`ner.tagger.Tagger.tag`."""
        pairs = self.split(text) if isinstance(text, str) else [(token, 0) for token in text]
        post = records.checked(View("1", [token for token, _ in pairs], None, context))
        [prediction] = self.predict([post])
        return with_offsets(prediction, [start for _, start in pairs]) if isinstance(text, str) else prediction

    def predict(
        self, views: Iterable[View], batch_size: int = 32, *, with_context: bool = True, adapt: bool = True
    ) -> Iterator[Prediction]:
        """As :meth:`ner.tagger.Tagger.predict`."""
        for chunk in chunks(views, batch_size * _CHUNK_BATCHES):
            adapted = [self.writing.adapt(view.tokens) if adapt else None for view in chunk]
            read = [
                view if each is None else replace(view, tokens=each[0], labels=None)
                for view, each in zip(chunk, adapted, strict=True)
            ]
            encoded = self._encoder.encode(read, with_context=with_context)
            batches = list(length_sorted_batches(encoded, batch_size))
            found = self._threads.map(self._emissions, [[encoded[place] for place in batch] for batch in batches])
            emissions: dict[int, Floats] = {}
            for batch, values in zip(batches, found, strict=True):
                emissions |= zip(batch, values, strict=True)
            for place, (view, each) in enumerate(zip(chunk, adapted, strict=True)):
                prediction = self._decoded(read[place], encoded[place], emissions.get(place))
                yield prediction if each is None else of_given(view, prediction, each[1])

    def _emissions(self, encoded: Sequence[EncodedView]) -> list[Floats]:
        """Label scores of the tokens of each view, *Shape:* (tokens, n_labels) each."""
        windows = [window for view in encoded for window in view.windows]
        width = max(map(len, windows))
        input_ids = np.full((len(windows), width), self._encoder.pad_id, dtype=np.int64)
        attention_mask = np.zeros_like(input_ids)
        for row, window in enumerate(windows):
            input_ids[row, : len(window)] = window
            attention_mask[row, : len(window)] = 1
        firsts, n_windows = [], 0
        for view in encoded:
            places = zip(view.rows, view.positions, strict=True)
            firsts += [(n_windows + row) * width + position for row, position in places]
            n_windows += len(view.windows)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "firsts": np.array(firsts, dtype=np.int64)}
        try:
            found = self._session.run(("emissions",), inputs)[0].astype(np.float64)
        except Exception as error:  # onnxruntime's errors share no other base
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"onnxruntime fails on sub-tokens of shape {input_ids.shape} ({first})") from None
        ends = np.cumsum([len(view) for view in encoded])
        return np.split(found, ends[:-1])

    def _decoded(self, view: View, encoded: EncodedView, emissions: Floats | None) -> Prediction:
        if emissions is None:  # a post without tokens
            return Prediction(view.id, view.tokens, view.labels, [], [], encoded.context_used)
        path = self.chain.best_path(emissions)
        labels = to_iob2([self.labels[each] for each in path])
        named = entities(labels, "conlleval")
        spans = [(start, end) for start, end, _ in named]
        scores = self.chain.span_probabilities(emissions, path, spans) if spans else []
        found = [
            FoundEntity(start, end, kind, " ".join(view.tokens[start:end]), score)
            for (start, end, kind), score in zip(named, scores, strict=True)
        ]
        return Prediction(view.id, view.tokens, view.labels, labels, found, encoded.context_used)


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m ner.light", description="Find named entities, without torch.")
    parser.add_argument("folder", metavar="FOLDER", help="an exported tagger")
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="input; - or nothing: stdin")
    parser.add_argument("--format", choices=FORMATS, default="text", help="as of ner.predict [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=32, help="posts the encoder reads at once [%(default)s]")
    arguments = parser.parse_intermixed_args()
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size: expected at least 1, found {arguments.batch_size}")
    tagger = LightTagger.load(arguments.folder)
    starts_of: list[list[int] | None] = []

    def views() -> Iterator[View]:
        for view, starts in read_input(arguments.file, arguments.format, split=tagger.split):
            starts_of.append(starts)
            yield view

    for prediction in tagger.predict(views(), arguments.batch_size):
        starts = starts_of.pop(0)
        found = prediction if starts is None else with_offsets(prediction, starts)
        sys.stdout.write(records.as_json(records.row(found)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_cli(main)
