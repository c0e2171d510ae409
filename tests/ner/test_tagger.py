"""What a tagger tells of posts' pictures: their relation to the text, and where entities look."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ner.tagger import Tagger
from ner.views import collate
from ner.visual import Visuals, collate_visuals
from pipeline.core.records import FoundEntity, Prediction
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
