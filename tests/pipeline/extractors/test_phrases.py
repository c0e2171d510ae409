"""Phrases of tweets: what a detector is asked for."""

import pytest

from pipeline.extractors._phrases import MOST_WORDS, phrases


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Stephen Curry is like a little kid on the court .", ["Stephen Curry", "little kid", "court"]),
        ("RT @KingJames : the Cavs in #GameOfThrones http://t.co/abc", ["King James", "Cavs", "Game Of Thrones"]),
        ("#NYC2015 @sf_giants #tbt # @ #123", ["NYC", "sf giants"]),
        ("Empire State Building , New York ( NY )", ["Empire State Building", "New York", "NY"]),
        ("I 'm at Starbucks , don’t you see John's dog ?", ["Starbucks", "see John's dog"]),
        ("Harry-Potter & AT&T and U.S. Open 2016", ["Harry-Potter", "AT&T", "US Open"]),
        ("“Hello” ( world ) and/or www.a.com 🎂 café", ["world", "café"]),
        ("दिल्ली में 東京 タワー", ["दिल्ली में 東京 タワー"]),
        ("a b c . d", ["b c"]),
        ("", []),
    ],
)
def test_a_phrase_is_a_run_of_words_between_stop_words(text: str, expected: list[str]) -> None:
    assert list(phrases([text.split()], 16)) == expected


def test_phrases_of_several_posts_come_once_each_and_no_more_than_asked_for() -> None:
    posts = [["Red", "Square", ",", "Moscow"], ["in", "MOSCOW", "today"], ["the", "Kremlin"]]
    assert phrases(posts, 16) == ("Red Square", "Moscow", "Kremlin")
    assert phrases(posts, 2) == ("Red Square", "Moscow")
    assert phrases([], 2) == ()


def test_a_long_run_is_cut() -> None:
    words = [f"word{letter}" for letter in "abcdefghi"]
    found = phrases([words], 16)
    assert " ".join(found).split() == words
    assert [len(phrase.split()) for phrase in found] == [MOST_WORDS, MOST_WORDS, 1]


def test_no_phrase_has_what_separates_labels() -> None:
    odd = ["a.b.", "?!", ".", "what?no", "…", "x.?", "#a.b?c", "@.?", "\u200b", "e.g."]
    assert not any(set(phrase) & set(".?") for phrase in phrases([odd], 16))
