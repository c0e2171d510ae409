"""A spaCy component: ``nlp.add_pipe("sightread", config={"model": "models/tagger"})`` sets `doc.ents` by a tagger.

The tagger splits the text by itself, as its data were; what it finds is put on spaCy's tokens by its place in the text.
spaCy is an extra (requirements-spacy.lock). Where the package is not installed, importing this module registers it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import filter_spans

from ner.predictions import with_offsets
from ner.tagger import Tagger
from pipeline.core.records import Prediction, View

CONFIG = {"model": "models/tagger", "device": "auto", "overwrite": True}


class Entities:
    """Sets the entities of docs.

    A doc's ``doc._.context`` is what its pictures show, in words (empty: the text alone); a found entity's
    ``span._.confidence`` is the tagger's own probability of it, not calibrated.

    Args:
        tagger: a trained one.
        overwrite: whether entities that a doc has already are dropped; else they stay, and none that overlaps them is
            set.
    """

    def __init__(self, tagger: Tagger, *, overwrite: bool) -> None:
        self.tagger, self.overwrite = tagger, overwrite

    def __call__(self, doc: Doc) -> Doc:
        """Set the entities of one doc."""
        [done] = self.pipe([doc])
        return done

    def pipe(self, docs: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Set the entities of docs, so many at a time."""
        source = iter(docs)
        while batch := list(islice(source, batch_size)):
            split = [self.tagger.split(doc.text) for doc in batch]
            views = [
                View(str(number), [token for token, _ in tokens], None, doc._.context or "")
                for number, (doc, tokens) in enumerate(zip(batch, split, strict=True))
            ]
            for doc, tokens, found in zip(batch, split, self.tagger.predict(views), strict=True):
                self._set(doc, with_offsets(found, [start for _, start in tokens]))
                yield doc

    def _set(self, doc: Doc, found: Prediction) -> None:
        spans = []
        for entity in found.entities:
            span = doc.char_span(entity.start_char, entity.end_char, label=entity.type, alignment_mode="expand")
            if span is not None:
                spans.append((span, entity.confidence))
        there = [] if self.overwrite else list(doc.ents)
        new = [
            span
            for span in filter_spans(span for span, _ in spans)  # tokens of spaCy's may be parts of two entities
            if not any(span.start < other.end and other.start < span.end for other in there)
        ]
        doc.ents = (*there, *new)
        for span, confidence in spans:
            if span in new:
                span._.confidence = confidence


@Language.factory("sightread", default_config=CONFIG, assigns=["doc.ents"])
def make(nlp: Language, name: str, model: str, device: str, overwrite: bool) -> Entities:
    """The component, as spaCy makes it.

    Args:
        nlp: the pipeline that it is added to.
        name: what it is called there.
        model: a tagger's folder, or a repository on the hub.
        device: auto, cpu, cuda, cuda:1, …
        overwrite: as of :class:`Entities`.

    Raises:
        UserError: there is no such tagger or device.
    """
    for kind, extension, default in ((Doc, "context", ""), (Span, "confidence", None)):
        if not kind.has_extension(extension):
            kind.set_extension(extension, default=default)
    return Entities(Tagger.load(model, device), overwrite=overwrite)
