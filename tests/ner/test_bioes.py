"""BIOES to and from IOB2, and what may follow what in it."""

import itertools

import pytest

from ner.bioes import allowed_transitions, scheme_labels, to_iob2, to_scheme
from pipeline.core.errors import UserError


@pytest.mark.parametrize(
    ("iob2", "bioes"),
    [
        (["B-PER", "I-PER", "I-PER", "O", "B-LOC"], ["B-PER", "I-PER", "E-PER", "O", "S-LOC"]),
        (["B-PER", "B-PER", "I-PER"], ["S-PER", "B-PER", "E-PER"]),
        ([], []),
        (["O"], ["O"]),
    ],
)
def test_iob2_and_bioes_say_the_same(iob2: list[str], bioes: list[str]) -> None:
    assert to_scheme(iob2) == bioes
    assert to_iob2(bioes) == iob2


def test_an_orphan_opens_an_entity_as_conlleval_reads_it() -> None:
    assert to_scheme(["O", "I-PER", "I-PER", "I-LOC"]) == ["O", "B-PER", "E-PER", "S-LOC"]


def test_labels_of_a_corpus_are_those_of_its_types_in_order() -> None:
    assert scheme_labels([["O", "I-PER"], ["B-LOC"]]) == [
        "O",
        "B-LOC",
        "I-LOC",
        "E-LOC",
        "S-LOC",
        "B-PER",
        "I-PER",
        "E-PER",
        "S-PER",
    ]
    with pytest.raises(UserError, match="no post has an entity"):
        scheme_labels([["O"], []])


def test_allowed_paths_are_exactly_those_that_describe_entities() -> None:
    labels = scheme_labels([["B-A", "B-B"]])
    transitions, start, stop = allowed_transitions(labels)
    for path in itertools.product(range(len(labels)), repeat=3):
        allowed = bool(start[path[0]] & stop[path[2]] & transitions[path[0], path[1]] & transitions[path[1], path[2]])
        names = [labels[index] for index in path]
        # A path is well-formed if going to IOB2 and back gives it again.
        assert allowed == (to_scheme(to_iob2(names)) == names), names


def test_iob2_is_a_scheme_of_its_own() -> None:
    labels = scheme_labels([["B-PER", "O", "I-LOC"]], "iob2")
    assert labels == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert to_scheme(["O", "I-LOC", "I-LOC", "I-PER"], "iob2") == ["O", "B-LOC", "I-LOC", "B-PER"]
    assert to_iob2(labels) == labels
    transitions, starts, stops = allowed_transitions(labels)
    allowed = {(labels[one], labels[other]) for one, other in transitions.nonzero().tolist()}
    assert {a for a, b in allowed if b == "I-LOC"} == {"B-LOC", "I-LOC"}
    assert all((a, b) in allowed for a in labels for b in ("O", "B-LOC", "B-PER"))
    assert [label for label, may in zip(labels, starts.tolist(), strict=True) if may] == ["O", "B-LOC", "B-PER"]
    assert stops.all()
