"""Each wrong or missing entity is one mistake of one kind; counts agree with nervaluate's where it counts the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nervaluate import Evaluator

from ner.scoring.error_analysis import KINDS, count_errors, mistakes
from pipeline.core.labels import entities

LABELS = st.lists(st.sampled_from(["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("gold", "predicted", "kinds"),
    [
        ("B-PER I-PER O", "B-PER I-PER O", []),
        ("B-PER I-PER O", "O O O", ["missed"]),
        ("O O O", "O B-LOC O", ["spurious"]),
        ("B-PER I-PER O", "B-PER O O", ["borders"]),
        ("B-PER I-PER O", "B-LOC I-LOC O", ["type"]),
        ("B-PER I-PER O", "B-LOC O O", ["borders and type"]),
        ("B-PER I-PER I-PER", "B-LOC B-PER I-PER", ["spurious", "borders"]),  # most tokens in common
        ("B-PER I-PER", "B-LOC B-PER", ["spurious", "borders"]),  # of as many, the same type
        ("B-PER B-LOC", "B-PER I-PER", ["borders", "missed"]),
        ("I-PER O", "O I-LOC", ["missed", "spurious"]),  # orphans open entities
    ],
)
def test_mistakes_are_told_apart(gold: str, predicted: str, kinds: list[str]) -> None:
    found = mistakes(gold.split(), predicted.split())
    assert sorted(mistake.kind for mistake in found) == sorted(kinds)


@given(LABELS, st.data())
def test_every_entity_is_right_or_in_one_mistake(gold: list[str], data: st.DataObject) -> None:
    predicted = data.draw(
        st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC"]), min_size=len(gold), max_size=len(gold))
    )
    found = mistakes(gold, predicted)
    for side, labels in (("gold", gold), ("predicted", predicted)):
        named = [getattr(mistake, side) for mistake in found if getattr(mistake, side) is not None]
        right = set(entities(gold, "conlleval")) & set(entities(predicted, "conlleval"))
        assert len(named) == len(set(named))
        assert set(named) | right == set(entities(labels, "conlleval"))
        assert not set(named) & right
    counts = count_errors([(gold, predicted)]).get("micro", dict.fromkeys(("right", *KINDS), 0))
    assert counts["right"] == len(right)
    assert sum(counts[kind] for kind in KINDS) == len(found)


@given(LABELS, LABELS)
def test_of_one_entity_a_side_nervaluate_says_the_same(gold: list[str], predicted: list[str]) -> None:
    length = min(len(gold), len(predicted))
    gold, predicted = gold[:length], predicted[:length]
    sides = [entities(labels, "conlleval") for labels in (gold, predicted)]
    if any(len(side) != 1 for side in sides):
        return
    as_nervaluate = [[[{"label": kind, "start": start, "end": end - 1} for start, end, kind in side]] for side in sides]
    overall = Evaluator(*as_nervaluate, tags=["PER", "LOC"], loader="dict").evaluate()["overall"]
    counts = count_errors([(gold, predicted)])["micro"]
    strict, partial, by_type = (overall[key] for key in ("strict", "partial", "ent_type"))
    assert counts["right"] == strict.correct
    assert (counts["missed"], counts["spurious"]) == (partial.missed, partial.spurious)
    assert counts["borders"] == by_type.correct - strict.correct
    assert counts["type"] + counts["borders and type"] == by_type.incorrect
    assert counts["borders"] + counts["borders and type"] == partial.partial


def test_counts_stand_by_the_gold_entitys_type() -> None:
    counts = count_errors([(["B-PER", "O", "B-LOC"], ["B-LOC", "O", "O"]), (["O"], ["B-ORG"])])
    assert list(counts) == ["micro", "LOC", "ORG", "PER"]
    assert counts["PER"]["type"] == 1
    assert counts["LOC"]["missed"] == 1
    assert counts["ORG"]["spurious"] == 1
    assert count_errors([]) == {}
