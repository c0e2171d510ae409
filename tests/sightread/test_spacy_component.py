"""The spaCy component: the tagger's entities on spaCy's tokens, with contexts, in batches, beside others' entities."""

from pathlib import Path
from typing import Any

import pytest

from ner.tagger import Tagger
from pipeline.core.errors import UserError

spacy = pytest.importorskip("spacy", reason="the extra spacy is not installed")

TEXTS = ["love Jordan in Paris", "", "in #Paris, love @Jordan 😀 Paris", "the Jordan"]


@pytest.fixture(scope="module")
def nlp(tagger_folder: Path) -> Any:
    import sightread.spacy_component  # noqa: F401  (which registers the factory)

    made = spacy.blank("en")
    made.add_pipe("sightread", config={"model": str(tagger_folder), "device": "cpu"})
    return made


def test_a_docs_entities_are_the_taggers(nlp: Any, tagger_folder: Path) -> None:
    tagger = Tagger.load(tagger_folder, "cpu")
    found = 0
    for text in TEXTS:
        wanted = tagger.tag(text)
        doc = nlp(text)
        assert doc.text == text
        for span in doc.ents:
            inside = [
                entity
                for entity in wanted.entities
                if span.start_char <= (entity.start_char or 0) and (entity.end_char or 0) <= span.end_char
            ]
            assert span.label_ in {entity.type for entity in inside}
            assert span._.confidence in {entity.confidence for entity in inside}
            found += 1
        assert bool(doc.ents) == bool(wanted.entities)
    assert found >= 3


def test_docs_in_a_stream_are_as_one_by_one(nlp: Any) -> None:
    one = [[(span.text, span.label_) for span in nlp(text).ents] for text in TEXTS]
    assert [[(span.text, span.label_) for span in doc.ents] for doc in nlp.pipe(TEXTS, batch_size=3)] == one


def test_a_docs_context_is_read(nlp: Any, tagger_folder: Path) -> None:
    doc = nlp.make_doc("love Jordan")
    doc._.context = "photo of court"
    nlp.get_pipe("sightread")(doc)
    wanted = Tagger.load(tagger_folder, "cpu").tag("love Jordan", context="photo of court")
    assert [span._.confidence for span in doc.ents] == [entity.confidence for entity in wanted.entities] != []


def test_entities_that_are_there_stay_where_that_is_asked_for(nlp: Any, tagger_folder: Path) -> None:
    from sightread.spacy_component import Entities

    text = "love Jordan in Paris"
    whole = nlp(text).ents[0]
    doc = nlp.make_doc(text)
    doc.ents = (doc[whole.start : whole.start + 1].char_span(0, len(doc[whole.start].text), label="OTHER"),)
    Entities(Tagger.load(tagger_folder, "cpu"), overwrite=False)(doc)
    assert [span.label_ for span in doc.ents if span.start < whole.end and whole.start < span.end] == ["OTHER"]
    nlp.get_pipe("sightread")(doc)
    assert "OTHER" not in [span.label_ for span in doc.ents]


def test_no_tagger_is_named(tmp_path: Path) -> None:
    import sightread.spacy_component  # noqa: F401

    with pytest.raises(UserError, match="no tagger here"):
        spacy.blank("en").add_pipe("sightread", config={"model": str(tmp_path)})
