"""One tagger under several conditions, with what it tells of pictures: of the own, of others', and of none."""

from pathlib import Path
from typing import get_args

import pytest

from ner.scoring.evaluation import condition_views, evaluate
from ner.tagger import Tagger
from ner.visual import Visuals
from pipeline.core import records
from pipeline.core.records import Prediction
from pipeline.settings.params import Condition, EvaluateParams
from tests.ner.conftest import pictured_views


def test_relations_are_those_of_the_pictures_that_each_condition_shows(rpbert_tagger: Tagger) -> None:
    views = pictured_views(12)
    params = EvaluateParams(conditions=list(get_args(Condition)), bootstrap_samples=0)
    results = evaluate(rpbert_tagger, views, params, batch_size=4)
    relations = {name: [each.relation for each in predictions] for name, (_, predictions) in results.items()}
    for name in ("cross_modal", "shuffled", "noised", "missing"):
        wanted = rpbert_tagger.relations(condition_views(views, name, params))
        assert relations[name] == [None if value is None else pytest.approx(value, rel=1e-4) for value in wanted]
        assert 0 < relations[name].count(None) < len(views)
    own = relations["cross_modal"]
    for name, n_changed in (("shuffled", 12), ("noised", 6), ("missing", 6)):
        assert 0 < sum(one != other for one, other in zip(own, relations[name], strict=True)) <= n_changed
    assert relations["text_only"] == [None] * len(views)
    assert {each.attention for _, predictions in results.values() for each in predictions} == {None}, "nobody asked"


def test_attention_is_kept_of_posts_with_their_own_pictures_where_it_is_asked_for(
    rpbert_tagger: Tagger,
    visuals: Visuals,
    tmp_path: Path,
) -> None:
    views = pictured_views(12)
    params = EvaluateParams(conditions=["cross_modal", "text_only", "shuffled"], bootstrap_samples=0, attention=True)
    results = evaluate(rpbert_tagger, views, params, batch_size=4)
    own = results["cross_modal"][1]
    assert [each.attention for each in own] == rpbert_tagger.attention(views, own, 4)
    assert any(each.entities for each in own)
    for each, view in zip(own, views, strict=True):
        assert [cells is not None for cells in each.attention or []] == (
            [image in (visuals.features or ()) for image in view.images] if each.attention else []
        )
        assert (each.attention is None) == (each.relation is None)
    for name in ("text_only", "shuffled"):
        assert {each.attention for each in results[name][1]} == {None}
    records.write(tmp_path / "predictions.jsonl", own)
    assert list(records.read(tmp_path / "predictions.jsonl", Prediction, "evaluate")) == own
