"""Posts of two files are matched by id or by place, and what has no match is named."""

import unicodedata

import pytest

from ner.scoring.matching import match
from pipeline.core.errors import UserError
from pipeline.core.records import Post


def posts(*ids: str, image: str | None = "x.jpg") -> list[Post]:
    return [Post(name, ["a"], ["O"], [image] if image else []) for name in ids]


def test_posts_missing_or_too_many_are_named() -> None:
    with pytest.raises(UserError, match=r"p: lacks post IMGID:2, unlike g \(1 missing, 0 too many\)"):
        match(posts("1", "2"), posts("1"), "g", "p")
    with pytest.raises(UserError, match="p: adds post IMGID:3"):
        match(posts("1"), posts("1", "3"), "g", "p")
    with pytest.raises(UserError, match="2 posts, but g has 1"):
        match(posts("g-1", image=None), posts("p-1", "p-2", image=None), "g", "p")


def test_an_id_given_twice_is_matched_by_its_turn() -> None:
    gold = [Post("1", ["a"], ["O"], ["1.jpg"]), Post("1", ["b"], ["O"], ["1.jpg"])]
    assert match(gold, list(gold), "g", "p") == gold


def test_ids_that_differ_in_unicode_form_alone_match_and_tokens_are_said_to() -> None:
    nfc, nfd = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    assert match(posts("1", nfc), posts(nfd, "1"), "g", "p") == [*posts("1"), *posts(nfd)]
    gold, found = ([Post("1", [token], ["O"], ["1.jpg"])] for token in (nfc, nfd))
    with pytest.raises(UserError, match=r"token 1 is 'é' in g, .*; they differ in Unicode form alone .*: write both"):
        match(gold, found, "g", "p")


def test_the_second_of_a_double_id_is_found_under_the_name_that_predictions_give_it() -> None:
    gold = [Post("1", ["a"], ["O"], ["1.jpg"]), Post("2", ["c"], ["O"], ["2.jpg"]), Post("1", ["b"], ["O"], ["1.jpg"])]
    named = [Post("1#2", ["b"], ["O"], ["x"]), Post("1", ["a"], ["O"], ["x"]), Post("2", ["c"], ["O"], ["x"])]
    assert [post.tokens for post in match(gold, named, "g", "p")] == [["a"], ["c"], ["b"]]
    assert [post.tokens for post in match(named, gold, "g", "p")] == [["b"], ["a"], ["c"]]
    with pytest.raises(UserError, match="p: lacks post IMGID:1#2, unlike g"):
        match(gold, named[1:], "g", "p")
