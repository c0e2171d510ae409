"""One post tagged as it comes; what a tagger tells of posts' pictures: their relation, and what entities look at."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ner.tagger import Tagger
from ner.views import collate
from ner.visual import Visuals, collate_visuals
from pipeline.core.errors import UserError
from pipeline.core.marks import count
from pipeline.core.records import FoundEntity, Prediction, View
from tests.ner.conftest import IMAGES, pictured_views, tagger_of
from tests.ner.models import test_iie4mner as of_iie4mner
from tests.ner.models import test_rpbert as of_rpbert


def test_a_posts_relation_is_that_of_its_own_pictures_whatever_the_batch(rpbert_tagger: Tagger) -> None:
    views = pictured_views()
    model: Any = rpbert_tagger.model
    found = rpbert_tagger.relations(views)
    assert [value is None for value in found] == [True if not row else row == ("torn.jpg",) for row in IMAGES]
    for view, value in zip(views, found, strict=True):
        if value is None:
            continue
        encoded = rpbert_tagger.encoder.encode([view], with_context=True)
        visual = collate_visuals([encoded[0].visual])
        assert visual is not None
        with torch.no_grad():
            assert value == pytest.approx(float(model.relation(collate(encoded, 1), visual)), rel=1e-4)
    known = [value for value in found if value is not None]
    assert max(known) > 1.005 * min(known), "of other posts and pictures it is another"
    assert rpbert_tagger.relations(views, batch_size=1) == [
        None if value is None else pytest.approx(value, rel=1e-4) for value in found
    ]


def test_systems_without_a_relation_and_taggers_shown_nothing_have_none(
    xlm_r_folder: Path, tagger_folder: Path, visuals: Visuals
) -> None:
    views = pictured_views()
    predictions = [Prediction(view.id, view.tokens, None, ["O"] * len(view.tokens), [], "") for view in views]
    iie, _ = of_iie4mner.tagger(xlm_r_folder)
    assert tagger_of(iie, xlm_r_folder, visuals).relations(views) == [None] * len(views)
    for tagger in (
        Tagger.load(tagger_folder, "cpu"),
        tagger_of(of_rpbert.tagger(xlm_r_folder), xlm_r_folder, None),
    ):
        assert tagger.relations(views) == [None] * len(views)
        assert tagger.attention(views, predictions) == [None] * len(views)


@pytest.mark.parametrize("system", ["rpbert", "iie4mner"])
def test_attention_is_the_mean_over_the_tokens_of_found_entities_by_picture(
    system: str, xlm_r_folder: Path, visuals: Visuals, rpbert_tagger: Tagger
) -> None:
    tagger = (
        rpbert_tagger if system == "rpbert" else tagger_of(of_iie4mner.tagger(xlm_r_folder)[0], xlm_r_folder, visuals)
    )
    views = pictured_views()
    spans = [[(0, 1), (1, 2)], [(0, 1)], [(1, 2)], [], [(0, 1)], [(0, 2)]]
    predictions = [
        Prediction(
            view.id,
            view.tokens,
            None,
            ["O"] * len(view.tokens),
            [FoundEntity(start, end, "PER", " ".join(view.tokens[start:end]), 0.5) for start, end in found],
            "",
        )
        for view, found in zip(views, spans, strict=True)
    ]
    model: Any = tagger.model
    found = tagger.attention(views, predictions, batch_size=3)
    for row, (view, places) in enumerate(zip(views, spans, strict=True)):
        if IMAGES[row] in ((), ("torn.jpg",)):
            assert found[row] is None
            continue
        encoded = tagger.encoder.encode([view], with_context=True)
        visual = collate_visuals([encoded[0].visual])
        assert visual is not None
        with torch.no_grad():
            weights = model.grid_attention(collate(encoded, 1), visual)[0]
        tokens = [token for start, end in places for token in range(start, end)] or list(range(len(view.tokens)))
        wanted = sum((weights[token] for token in tokens), torch.zeros(len(weights[0]))) / len(tokens)
        by_picture = found[row]
        assert by_picture is not None
        assert [cells is None for cells in by_picture] == [image == "torn.jpg" for image in view.images]
        cells = [value for each in by_picture for value in each or []]
        assert cells == pytest.approx(wanted.tolist(), rel=6e-3)
        assert all(len(f"{value:g}".replace(".", "").strip("0")) <= 3 for value in cells)


@pytest.fixture(scope="session")
def apart_folder(tagger_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tagger whose data wrote `@ name` and `# tag` as two tokens."""
    folder = tmp_path_factory.mktemp("apart") / "tagger"
    shutil.copytree(tagger_folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["marks"] = count([["@", "Jordan", "#", "Paris"]])
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _found(prediction: Prediction) -> list[tuple[str, str]]:
    return [(entity.type, entity.text) for entity in prediction.entities]


def test_text_gives_what_tokens_written_as_the_data_give(apart_folder: Path) -> None:
    tagger = Tagger.load(apart_folder, "cpu")
    text = "love  @Jordan in #Paris"
    wanted = tagger.tag(["love", "@", "Jordan", "in", "#", "Paris"])
    found = tagger.tag(text)
    assert (found.tokens, found.predicted) == (wanted.tokens, wanted.predicted)
    assert _found(found) == _found(wanted) != []
    for entity, other in zip(found.entities, wanted.entities, strict=True):
        assert entity.start_char is not None
        assert "".join(text[entity.start_char : entity.end_char].split()) == entity.text.replace(" ", "")
        assert (other.start_char, other.end_char) == (None, None)


def test_labels_of_adapted_tokens_are_those_of_the_given_ones(apart_folder: Path) -> None:
    tagger = Tagger.load(apart_folder, "cpu")
    given = View("1", ["love", "@Jordan", "in", "#Paris"], ["O", "B-PER", "O", "O"], "photo of court")
    [apart] = tagger.predict([replace(given, tokens=["love", "@", "Jordan", "in", "#", "Paris"], labels=None)])
    [found] = tagger.predict([given])
    assert (found.tokens, found.labels, found.context_used) == (given.tokens, given.labels, given.context)
    assert found.predicted == to_iob2_of(found)
    assert found.entities
    places = {0: 0, 1: 1, 2: 1, 3: 2, 4: 3, 5: 3}
    first = apart.entities[0]
    assert (found.entities[0].start, found.entities[0].type) == (places[first.start], first.type)
    assert found.entities[0].confidence == first.confidence
    [as_given] = tagger.predict([given], adapt=False)
    [as_ever] = Tagger(tagger.model, tagger.encoder).predict([given], adapt=False)
    assert as_given == as_ever


def test_a_post_is_as_uncertain_as_the_tokens_that_are_read_for_it(apart_folder: Path) -> None:
    tagger = Tagger.load(apart_folder, "cpu")
    given, apart = View("1", ["love", "@Jordan"], None, ""), View("1", ["love", "@", "Jordan"], None, "")
    assert tagger.entropies([given]) == tagger.entropies([apart])


def to_iob2_of(prediction: Prediction) -> list[str]:
    """The labels that a prediction's entities make."""
    labels = ["O"] * len(prediction.tokens)
    for entity in prediction.entities:
        labels[entity.start : entity.end] = [
            f"B-{entity.type}",
            *[f"I-{entity.type}"] * (entity.end - entity.start - 1),
        ]
    return labels


def test_a_text_or_tokens_are_tagged_with_the_context_that_is_given(tagger_folder: Path) -> None:
    tagger = Tagger.load(tagger_folder, "cpu")
    text, tokens = "love Jordan , Paris", ["love", "Jordan", ",", "Paris"]
    one, two = tagger.tag(text, context="photo of court"), tagger.tag(tokens, context="photo of court")
    assert (one.predicted, one.context_used) == (two.predicted, "photo of court")
    assert [replace(entity, start_char=None, end_char=None) for entity in one.entities] == two.entities
    assert tagger.tag(text).context_used == ""
    assert tagger.tag("") == tagger.tag([])
    for bad in (["a", ""], ["a\tb"], "\ud83d", ["a", 3]):
        with pytest.raises(ValueError, match=r"expected|holds|unpaired"):
            tagger.tag(bad)  # type: ignore[arg-type]


def test_a_tagger_of_before_is_as_it_was_and_one_with_damaged_counts_is_named(
    tagger_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tagger"
    shutil.copytree(tagger_folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("marks", None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert Tagger.load(folder, "cpu").tag("love @Jordan").tokens == ["love", "@Jordan"]
    (folder / "config.json").write_text(json.dumps({**config, "marks": {"@": "apart"}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json: not a tagger's config"):
        Tagger.load(folder, "cpu")
