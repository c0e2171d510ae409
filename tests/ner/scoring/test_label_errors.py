"""Labels that a tagger contradicts are found, with how sure it is; entropies are those of all label sequences."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ner.scoring.label_errors import doubts
from ner.tagger import Tagger
from ner.views import collate
from pipeline.core.marks import Writing
from pipeline.core.records import Labelled, View
from reporting import doubts as page
from tests.ner.conftest import many_views


@pytest.fixture(scope="module")
def tagger(tagger_folder: Path) -> Tagger:
    return Tagger.load(tagger_folder, "cpu")


def test_a_changed_label_is_doubted_and_what_agrees_is_not(tagger: Tagger, tmp_path: Path) -> None:
    views = many_views(20)
    found = list(tagger.predict(views))
    as_predicted = [replace(view, labels=each.predicted) for view, each in zip(views, found, strict=True)]
    assert list(doubts(tagger, as_predicted)) == []
    place = next(place for place, each in enumerate(found) if each.entities)
    entity = found[place].entities[0]
    labels = list(found[place].predicted)
    labels[entity.start : entity.end] = ["O"] * (entity.end - entity.start)
    changed = [*as_predicted]
    changed[place] = replace(views[place], labels=labels)
    [doubt] = doubts(tagger, [*changed, View("x", ["Paris"], None, "")], batch_size=3)
    assert (doubt.id, doubt.gold, doubt.kind) == (views[place].id, None, "spurious")
    assert doubt.predicted == Labelled(entity.start, entity.end, entity.type)
    assert doubt.confidence == pytest.approx(entity.confidence, abs=1e-5)
    page.write([replace(doubt, tokens=["<b>", *doubt.tokens[1:]])], 20, 0.8, tmp_path / "label_errors.html")
    text = (tmp_path / "label_errors.html").read_text(encoding="utf-8")
    assert f"{doubt.confidence:.3f}" in text
    assert "no entity" in text
    assert "<b>" not in text
    assert (tmp_path / "assets/report.css").exists()


def test_a_doubt_is_about_the_labels_of_the_tokens_as_given(tagger: Tagger) -> None:
    other = Tagger(tagger.model, tagger.encoder)
    other.writing = Writing({"@": {"joined": 0, "apart": 9}, "#": {"joined": 0, "apart": 9}})
    view = View("1", ["love", "@Jordan", "in", "#Paris"], ["O"] * 4, "")
    assert other.writing.adapt(view.tokens) is not None
    assert list(doubts(other, [view])) == list(doubts(Tagger(tagger.model, tagger.encoder), [view]))


def test_the_entropy_is_that_of_all_label_sequences(tagger: Tagger) -> None:
    views = [View("1", ["love", "Paris"], None, "photo of court"), View("2", ["Jordan"], None, "")]
    crf, n_labels = tagger.model.crf, len(tagger.model.labels)
    for view, found in zip(views, tagger.entropies(views), strict=True):
        batch = collate(tagger.encoder.encode([view], with_context=True), tagger.encoder.pad_id)
        with torch.no_grad():
            emissions = tagger.model.emissions(batch)
        length = len(view.tokens)
        paths = torch.tensor(list(itertools.product(range(n_labels), repeat=length)))
        spans = torch.tensor([(row, 0, length) for row in range(len(paths))])
        many = emissions.expand(len(paths), -1, -1).contiguous()
        logs = crf.span_log_probability(many, torch.ones(paths.shape, dtype=torch.bool), paths, spans).double()
        assert logs.exp().sum() == pytest.approx(1.0, abs=1e-4)
        assert found == pytest.approx(float(torch.special.entr(logs.exp()).sum()), abs=1e-3)
    text_only = tagger.entropies(views, with_context=False)
    assert text_only[0] != pytest.approx(tagger.entropies(views)[0], abs=1e-6)
