"""Tables on disk: what is sorted there is sorted as Python sorts, and a full disk is a plain word."""

import random

import pytest

from pipeline.core.errors import UserError
from pipeline.core.scratch import Distinct, Scratch, Sorted


def texts() -> list[str]:
    rng = random.Random(1)
    characters = ["a", "B", "é", "e\u0301", "\0", "\uffff", "\U0001f600", "\ud83d", "\ue000", "9"]
    return ["".join(rng.choices(characters, k=rng.randrange(6))) for _ in range(5000)]


def test_texts_come_once_in_the_order_of_their_code_points() -> None:
    found = Distinct(texts())
    assert list(found) == sorted(set(texts()))
    assert len(found) == len(set(texts()))
    assert list(found) == sorted(set(texts())), "as often as they are asked for"
    assert list(Distinct([])) == []


def test_texts_are_sorted_by_their_keys_and_equal_ones_stay_in_order() -> None:
    pairs = [(key, str(number)) for number, key in enumerate(texts())]
    assert list(Sorted(pairs)) == [text for _, text in sorted(pairs, key=lambda pair: pair[0])]


def test_a_full_disk_is_said_plainly() -> None:
    table = Scratch("CREATE TABLE large (text TEXT)")
    table.run("PRAGMA max_page_count = 20")
    with pytest.raises(UserError, match=r"temporary file cannot be written.*full.*SQLITE_TMPDIR"):
        table.fill("INSERT INTO large VALUES (?)", (("x" * 1000,) for _ in range(1000)))


def test_an_error_of_what_fills_a_table_is_its_own() -> None:
    def rows() -> list[tuple[str]]:
        raise UserError("line 3")

    with pytest.raises(UserError, match="line 3"):
        Scratch("CREATE TABLE some (text TEXT)").fill("INSERT INTO some VALUES (?)", (row for row in rows()))
