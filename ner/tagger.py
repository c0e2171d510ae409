"""Tagging views with a trained tagger: best labels, entities and their confidences, as a stream.

``Tagger.load(folder).predict(views)`` in Python, ``python -m ner.predict MODEL [FILE]`` on the command line, on text
alone if there is nothing else. A confidence is the CRF's own probability of the entity, not calibrated on data. How
views become tensors is left to :mod:`ner.views`, reading text and files to :mod:`ner.formats`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ner import loading
from ner.bioes import to_iob2
from ner.crf.expectations import expectations
from ner.decoding import Scorer, attention, decode, relations
from ner.predictions import chunks, of_given, with_offsets
from ner.views import EncodedView, FurtherWords, ViewEncoder
from ner.visual import Visuals
from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.labels import entities
from pipeline.core.marks import Writing
from pipeline.core.records import FoundEntity, Prediction, View

CHUNK_BATCHES = 16  # so many batches of views are sorted by length together; all that a stream keeps in memory


class Tagger:
    """A trained tagger, ready to predict."""

    def __init__(self, model: Scorer, encoder: ViewEncoder) -> None:
        self.model, self.encoder = model, encoder
        self.writing = Writing(model.config.marks)
        self._further_words: FurtherWords | None = None

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", revision: str | None = None) -> "Tagger":
        """Load a tagger from its folder alone, on torch or, if it is exported, on onnxruntime.

        Args:
            folder: a folder, or where there is none of that name, a hub repository (`owner/name`): its weights as
                safetensors, JSON and vocabularies are downloaded on first use, never a pickle or code.
            device: auto, cpu, cuda, cuda:1, …
            revision: commit, branch or tag of a hub repository.

        Raises:
            UserError: the folder is not a tagger's, the hub does not have it, or there is no such device.
        """
        return cls(*loading.load(folder, device, revision))

    @property
    def reads_visual(self) -> bool:
        """Whether it reads what pictures give as tensors (:meth:`show`)."""
        return self.model.reads_visual

    def show(self, visuals: Visuals) -> None:
        """Have views with pictures tagged with what those give as tensors, where the tagger's system reads that.

        Raises:
            UserError: the features are not of the kind that the tagger was trained with, or it reads text alone, as one
                does that was exported so.
        """
        if not self.reads_visual:
            raise UserError(
                f"a tagger of system {self.model.config.system!r}, or one exported without --pictures, reads no "
                "features"
            )
        self.encoder.show(visuals, self.model.config.facts or {})

    def augment(self, word_vectors: Path) -> None:
        """Have tokens that the tagger was not trained with augmented, too, for a system that adds vectors to words.

        Without, they get no vector: a saved tagger knows those of the tokens of its training's posts alone.

        Args:
            word_vectors: the file that it was trained with.

        Raises:
            UserError: it was trained without one or with another, or is exported.
        """
        self._further_words = self.model.further_words(word_vectors)

    def _encoded(self, views: Sequence[View], *, with_context: bool) -> list[EncodedView]:
        if self._further_words is not None:
            known = self.encoder.table or {}
            tokens = {token for view in views for token in view.tokens}
            self.encoder.further = self._further_words(token for token in tokens if token not in known)
        return self.encoder.encode(views, with_context=with_context)

    def split(self, text: str) -> list[tuple[str, int]]:
        """A text's tokens and where each starts in it, with mentions and hashtags as the tagger's data wrote them."""
        return self.writing.split(text)

    def tag(self, text: str | Sequence[str], context: str = "", *, images: Sequence[str] = ()) -> Prediction:
        """Tag one post.

        Args:
            text: a text, which is split into tokens (:meth:`split`), or the tokens themselves.
            context: what its pictures show, in words; empty: it is read by its text alone.
            images: names of its pictures, for a tagger that was shown what they give as tensors (:meth:`show`).

        Returns:
            its tokens, their labels and the entities among them: type, first token and the one behind the last,
            confidence, and of a text `start_char` and `end_char`, where the entity is in it
            (``text[entity.start_char : entity.end_char]``).

        Raises:
            ValueError: a token is empty or holds a tab or a line break, or something is no text that UTF-8 can write.
        """
        pairs = self.split(text) if isinstance(text, str) else [(token, 0) for token in text]
        post = records.checked(View("1", [token for token, _ in pairs], None, context, list(images)))
        [prediction] = self.predict([post])
        return with_offsets(prediction, [start for _, start in pairs]) if isinstance(text, str) else prediction

    def predict(
        self,
        views: Iterable[View],
        batch_size: int = 32,
        *,
        with_context: bool = True,
        adapt: bool = True,
        done: Callable[[int], object] = lambda _: None,
    ) -> Iterator[Prediction]:
        """Tag views in order, reading no more than CHUNK_BATCHES batches or CHUNK_TOKENS tokens ahead.

        Args:
            views: an empty context makes a text-only example.
            batch_size: encoder windows at once; changes no result but for float noise.
            with_context: False tags every view by its text alone.
            adapt: whether mentions and hashtags are read as the tagger's data wrote them (:mod:`pipeline.core.marks`);
                predictions are of the tokens as given either way.
            done: is told how many views the encoder has just read, for a bar.
        """
        for chunk in chunks(views, batch_size * CHUNK_BATCHES):
            adapted = [self.writing.adapt(view.tokens) if adapt else None for view in chunk]
            read = list(map(_written, chunk, adapted))
            encoded = self._encoded(read, with_context=with_context)
            found = self._predict_chunk(read, encoded, batch_size, done)
            for view, each, prediction in zip(chunk, adapted, found, strict=True):
                yield prediction if each is None else of_given(view, prediction, each[1])

    def _predict_chunk(
        self,
        chunk: Sequence[View],
        encoded: Sequence[EncodedView],
        batch_size: int,
        done: Callable[[int], object],
    ) -> Iterator[Prediction]:
        predicted: list[list[str]] = [[] for _ in chunk]
        confidences: dict[tuple[int, int], float] = {}  # by view and first token
        for indices, paths, emissions, mask in decode(self.model, encoded, self.encoder.pad_id, batch_size, done=done):
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
            named = [
                FoundEntity(start, end, kind, " ".join(view.tokens[start:end]), confidences[index, start])
                for start, end, kind in entities(labels, "conlleval")
            ]
            yield Prediction(view.id, view.tokens, view.labels, labels, named, encoding.context_used)

    def probabilities(
        self, views: Sequence[View], spans: Sequence[Sequence[tuple[int, int]]], batch_size: int = 32
    ) -> list[list[float]]:
        """How likely exactly the labels are that it predicts for ranges of tokens as they are given, under the CRF.

        Args:
            views: posts, in order.
            spans: of each post, ranges of tokens, first and behind the last.
            batch_size: encoder windows at once.

        Returns:
            of each post, a probability for each of its ranges.
        """
        found = [[0.0] * len(each) for each in spans]
        encoded = self._encoded(views, with_context=True)
        for indices, paths, emissions, mask in decode(self.model, encoded, self.encoder.pad_id, batch_size):
            places = [(row, place) for row, index in enumerate(indices) for place in range(len(spans[index]))]
            if not places:
                continue
            ranges = [(row, *spans[indices[row]][place]) for row, place in places]
            wanted = torch.tensor(ranges, device=paths.device)
            scores = self.model.crf.span_log_probability(emissions, mask, paths, wanted).exp()
            for (row, place), score in zip(places, scores.tolist(), strict=True):
                found[indices[row]][place] = score
        return found

    def entropies(self, views: Sequence[View], batch_size: int = 32, *, with_context: bool = True) -> list[float]:
        """The entropy of each post's distribution over label sequences, in nats: 0 where the tagger is sure.

        Mentions and hashtags are read as :meth:`predict` reads them.

        Args:
            views: posts, in order.
            batch_size: encoder windows at once.
            with_context: False reads every view by its text alone.
        """
        found = [0.0] * len(views)
        read = [_written(view, self.writing.adapt(view.tokens)) for view in views]
        encoded = self._encoded(read, with_context=with_context)
        for indices, _, emissions, mask in decode(self.model, encoded, self.encoder.pad_id, batch_size):
            values = expectations(self.model.crf, emissions, mask).entropy.clamp_min(0.0)
            for index, value in zip(indices, values.tolist(), strict=True):
                found[index] = value
        return found

    def relations(self, views: Sequence[View], batch_size: int = 32) -> list[float | None]:
        """How likely each post's pictures add to its meaning, by the system's own relation of text and image.

        Args:
            views: posts, in order.
            batch_size: encoder windows at once.

        Returns:
            a probability for each post; None without a picture, and for systems that have no relation.
        """
        if not self.model.asks_relation:
            return [None] * len(views)
        encoded = self._encoded(views, with_context=True)
        return relations(self.model, encoded, self.encoder.pad_id, batch_size)

    def attention(
        self, views: Sequence[View], predictions: Sequence[Prediction], batch_size: int = 32
    ) -> list[list[list[float] | None] | None]:
        """How much the tokens of found entities attend to each region of the pictures, or all tokens if none is found.

        Args:
            views: posts, in order.
            predictions: what was found in them.
            batch_size: encoder windows at once.

        Returns:
            for each post and each of its pictures, a weight for each cell of the grid, row by row, to three significant
            digits, the mean over tokens; None for a picture without features, for a post without any, and for systems
            that attend to no grid.
        """
        visuals = self.encoder.visuals
        if not self.reads_visual or visuals is None:
            return [None] * len(views)
        encoded = self._encoded(views, with_context=True)
        named = [
            [token for entity in each.entities for token in range(entity.start, entity.end)] for each in predictions
        ]
        found = attention(self.model, encoded, named, self.encoder.pad_id, batch_size)
        return [
            None
            if weights is None
            else [
                [float(f"{weight:.3g}") for weight in cells.tolist()] or None
                for cells in weights.split(visuals.n_regions(view))
            ]
            for view, weights in zip(views, found, strict=True)
        ]


def _written(view: View, adapted: tuple[list[str], list[tuple[int, int]]] | None) -> View:
    """A view with its tokens written as the tagger's data is, or as it is where it is so."""
    return view if adapted is None else replace(view, tokens=adapted[0], labels=None)
