"""Label schemes and what entities a sequence holds."""

import pytest
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB2, Entities

from pipeline.core.labels import Entity, Scheme, entities, orphans, split_label, to_iob2

SEQUENCES = [
    "O B-PER I-PER O",
    "I-PER I-PER O B-LOC",
    "B-PER I-LOC I-LOC B-LOC B-LOC",
    "B-PER B-PER I-PER I-ORG",
    "O O",
    "I-A B-A I-A I-B O I-B",
]


@pytest.mark.parametrize("text", SEQUENCES)
def test_readings_agree_with_seqeval(text: str) -> None:
    labels = text.split()
    lenient = [Entity(start, end + 1, kind) for kind, start, end in get_entities(labels)]
    strict = [Entity(found.start, found.end, found.tag) for found in Entities([labels], IOB2).entities[0]]
    assert entities(labels, "conlleval") == lenient
    assert entities(labels, "strict") == strict


def test_an_orphan_is_counted_once() -> None:
    assert orphans(["I-PER", "I-PER", "O", "B-PER", "I-LOC", "I-LOC"]) == 2


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        ("iob1", "I-PER I-PER B-PER O I-LOC I-PER"),
        ("bioes", "B-PER E-PER S-PER O S-LOC S-PER"),
        ("bioes", "B-PER L-PER U-PER O U-LOC U-PER"),
    ],
)
def test_other_schemes_become_iob2(scheme: Scheme, text: str) -> None:
    assert to_iob2(text.split(), scheme) == ["B-PER", "I-PER", "B-PER", "O", "B-LOC", "B-PER"]


@pytest.mark.parametrize("label", ["PER", "B-", "-PER", "X-PER", "", "b-PER", "B_PER", "E-PER"])
def test_what_is_no_iob2_label_is_named(label: str) -> None:
    with pytest.raises(ValueError, match="is no IOB2 label"):
        split_label(label)
