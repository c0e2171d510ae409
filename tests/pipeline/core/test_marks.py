"""How a data set writes mentions and hashtags, counted, and posts written its way."""

import pytest

from pipeline.core.marks import Writing, count
from pipeline.core.tokens import tokenize

JOINED = {"@": {"joined": 300, "apart": 2}, "#": {"joined": 90, "apart": 0}}
APART = {"@": {"joined": 0, "apart": 80}, "#": {"joined": 3, "apart": 70}}
MIXED = {"@": {"joined": 30, "apart": 10}, "#": {"joined": 0, "apart": 0}}


def test_what_data_writes_is_counted_by_mark() -> None:
    posts = [
        ["RT", "@ada", ":", "see", "#", "Paris", "@", "!", "#1", "a@b", "@ada's", "#"],
        ["@", "ada", "#", "#tbt", "@@x", "©", "@", "–"],
        [],
    ]
    assert count(posts) == {"@": {"joined": 2, "apart": 1}, "#": {"joined": 2, "apart": 1}}


@pytest.mark.parametrize("text", ["Great goal by @ManUtd in #London !", "@a #b's\t@ é #é2 :-) @_x", "", "@", "# @ @"])
def test_text_is_split_as_the_data_is_and_keeps_its_places(text: str) -> None:
    assert Writing(None).split(text) == Writing(JOINED).split(text) == Writing(MIXED).split(text) == tokenize(text)
    apart = Writing(APART).split(text)
    assert all(text[start : start + len(token)] == token for token, start in apart)
    assert "".join(token for token, _ in apart) == "".join(text.split())
    assert count([[token for token, _ in apart]])["@"]["joined"] == 0
    assert Writing(APART).adapt([token for token, _ in apart]) is None, "it is written so already"


def test_a_joined_mention_becomes_two_tokens() -> None:
    assert Writing(APART).split("by @ManUtd") == [("by", 0), ("@", 3), ("ManUtd", 4)]


def test_tokens_are_written_as_the_data_is_each_known_by_those_it_is_made_of() -> None:
    given = ["Hi", "@ManUtd's", "#", "London", "@"]
    assert Writing(APART).adapt(given) == (
        ["Hi", "@", "ManUtd's", "#", "London", "@"],
        [(0, 1), (1, 2), (1, 2), (2, 3), (3, 4), (4, 5)],
    )
    assert Writing(JOINED).adapt(given) == (["Hi", "@ManUtd's", "#London", "@"], [(0, 1), (1, 2), (2, 4), (4, 5)])
    assert Writing(None).adapt(given) is None


def test_as_many_tokens_as_before_may_be_others() -> None:
    writing = Writing({"@": APART["@"], "#": JOINED["#"]})
    assert writing.adapt(["#", "tag", "@bob"]) == (["#tag", "@", "bob"], [(0, 2), (2, 3), (2, 3)])


def test_a_mark_that_the_data_writes_both_ways_stays_as_it_is_given() -> None:
    assert Writing(MIXED).adapt(["meet", "@", "home", "@ada", "#", "x"]) is None


@pytest.mark.parametrize("counts", [[], {"$": {}}, {"@": 3}, {"@": {"joined": 1}}, {"@": {"joined": -1, "apart": 2}}])
def test_what_are_no_counts_is_refused(counts: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        Writing(counts)  # type: ignore[arg-type]
