"""Entities that training has and others: what counts as which, and that the rows add up."""

import json
import sys
from pathlib import Path

import pytest

from ner.scoring import __main__ as command
from ner.scoring import f1
from ner.scoring.surface import Known, score
from pipeline.core.records import Post
from tests.ner.scoring.test_f1 import noisy_pair

TRAIN = [
    Post("1", ["New", "York", "and", "Jos\u00e9"], ["B-LOC", "I-LOC", "O", "B-PER"]),
    Post("2", ["Bank", "of", "England"], ["I-ORG", "O", "B-ORG"]),
    Post("3", ["Oslo"], None),
]


@pytest.mark.parametrize(
    ("tokens", "labels", "seen"),
    [
        (["New", "York"], ["B-LOC", "I-LOC"], True),
        (["York"], ["B-LOC"], False),
        (["new", "york"], ["B-LOC", "I-LOC"], False),
        (["New", "York"], ["B-ORG", "I-ORG"], False),
        (["Jose\u0301"], ["B-PER"], True),
        (["Oslo"], ["B-LOC"], False),
        (["England"], ["B-ORG"], True),
    ],
    ids=[
        "the same",
        "a part",
        "another case",
        "another type",
        "another Unicode form",
        "without labels",
        "a part of one",
    ],
)
def test_an_entity_is_seen_where_training_has_its_words_with_its_type(
    tokens: list[str], labels: list[str], seen: bool
) -> None:
    rows = score([tokens], [labels], [labels], Known.of(TRAIN))["strict"]
    assert (rows["seen"]["support"], rows["unseen"]["support"]) == (int(seen), int(not seen))
    assert rows["seen" if seen else "unseen"]["f1"] == 1.0
    assert rows["unseen" if seen else "seen"]["f1"] == 0.0


def test_training_is_read_as_the_scorer_reads() -> None:
    rows = score([["Bank"]], [["B-ORG"]], [["O"]], Known.of(TRAIN))
    assert {reading: found["seen"]["support"] for reading, found in rows.items()} == {"conlleval": 1, "strict": 0}


def test_precision_is_of_what_is_predicted() -> None:
    tokens = [["New", "York", "in", "Oslo"]]
    gold, predicted = [["B-LOC", "I-LOC", "O", "B-LOC"]], [["B-LOC", "I-LOC", "B-ORG", "O"]]
    rows = score(tokens, gold, predicted, Known.of(TRAIN))["strict"]
    assert [rows["seen"][key] for key in ("precision", "recall", "f1")] == [1.0, 1.0, 1.0]
    assert [rows["unseen"][key] for key in ("precision", "recall", "f1")] == [0.0, 0.0, 0.0]


def test_both_rows_add_up_to_all_entities_and_leave_the_others_alone() -> None:
    gold, predicted = noisy_pair(5)
    tokens = [[f"w{(place * 7 + post) % 5}" for place in range(len(labels))] for post, labels in enumerate(gold)]
    posts = [Post(str(post), tokens[post], gold[post]) for post in range(0, len(gold), 3)]
    rows = score(tokens, gold, predicted, Known.of(posts), bootstrap_samples=50, seed=2)
    whole = f1.score(gold, predicted, bootstrap_samples=50, seed=2)
    for reading, found in rows.items():
        seen, unseen = found.pop("seen"), found.pop("unseen")
        assert found == whole[reading]
        assert seen["support"] > 0
        assert seen["support"] + unseen["support"] == found["micro"]["support"]
        right = [row["recall"] * row["support"] for row in (seen, unseen, found["micro"])]
        assert right[0] + right[1] == pytest.approx(right[2])
        n_found = [hits / row["precision"] for hits, row in zip(right, (seen, unseen, found["micro"]), strict=True)]
        assert n_found[0] + n_found[1] == pytest.approx(n_found[2])
        assert seen["f1_ci"] is not None


def test_without_a_training_nothing_is_told_apart() -> None:
    for known in (None, Known.of([]), Known.of(TRAIN[2:])):
        assert set(score([["Oslo"]], [["B-LOC"]], [["B-LOC"]], known)["strict"]) == {"micro", "LOC"}


def test_the_command_tells_them_apart_by_the_training_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"gold": "Oslo\tB-LOC\nYork\tB-LOC\n", "predicted": "Oslo\tB-LOC\nYork\tO\n", "train": "Oslo\tB-LOC\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ner.scoring", "gold", "predicted", "--train", "train", "--json"])
    command.main()
    found = json.loads(capsys.readouterr().out)["strict"]
    assert (found["seen"]["recall"], found["unseen"]["recall"]) == (1.0, 0.0)
