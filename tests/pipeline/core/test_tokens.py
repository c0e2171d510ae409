"""Tokens of text in any script: what a reader takes for one character is never split, and offsets point at it."""

from itertools import pairwise

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.tokens import tokenize

CLUSTER = regex.compile(r"\X")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("नरेन्द्र मोदी आज", ["नरेन्द्र", "मोदी", "आज"]),
        ("Jose\u0301 Garci\u0301a in Bogota\u0301", ["Jose\u0301", "Garci\u0301a", "in", "Bogota\u0301"]),
        ("مُحَمَّد في باريس", ["مُحَمَّد", "في", "باريس"]),
        ("می\u200cخواهم تهران", ["می\u200cخواهم", "تهران"]),
        ("🇺🇸 vs 🇨🇦🇨🇦🇫🇷", ["🇺🇸", "vs", "🇨🇦🇨🇦", "🇫🇷"]),
        ("top1\ufe0f\u20e3 2\u20e3 #\ufe0f\u20e3", ["top", "1\ufe0f\u20e3", "2\u20e3", "#\ufe0f\u20e3"]),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007fok", None),
        ("👩\u200d👩\u200d👧 👍🏽👍🏽 ❤\ufe0f\u200d🔥", ["👩\u200d👩\u200d👧", "👍🏽👍🏽", "❤\ufe0f\u200d🔥"]),
        ("ℹ\ufe0fnow", ["ℹ\ufe0f", "now"]),
        ("!!!\u0301 :D\u0301 <3\u0301", ["!!", "!\u0301", ":", "D\u0301", "<", "3\u0301"]),
        ("각하 \u1112\u1161\u11ab", ["각하", "\u1112\u1161\u11ab"]),
        ("\u1112\u1112\ufe0f नन\ufe0f", ["\u1112\u1112\ufe0f", "नन\ufe0f"]),
        ("#东京 我爱北京。", ["#东京", "我", "爱", "北", "京", "。"]),
        ("ジョーダンとNBA 2016年", ["ジ", "ョ", "ー", "ダ", "ン", "と", "NBA", "2016", "年"]),
        ("ที่นี่ ๒๕๕๙", ["ที่", "นี่", "๒๕๕๙"]),
        ("\u060012 \u0600 b", ["\u060012", "\u0600", "b"]),
    ],
)
def test_what_is_one_character_stays_whole(text: str, tokens: list[str] | None) -> None:
    assert [token for token, _ in tokenize(text)] == (tokens or [text.removesuffix("ok"), "ok"])


PIECES = st.lists(
    st.sampled_from([*"aZ9_ !?:)D<3#@./é한한ℹ©😂❤👍👩我ーでกที่\u0301\u093e\u094d\u200c\u200d\ufe0f\u20e3🏽🇺🇸"])
    | st.sampled_from(["न", "\u1112", "\u1161", "\u0600", "\u0d4e", "\U000e0067", "\x1c", "\u00a0", "http://t.co/a"])
    | st.characters(exclude_categories=["Cs"]),
    max_size=12,
).map("".join)


@settings(max_examples=500, deadline=None)
@given(PIECES)
@example("a\u0301")
@example("\u1112\u1112\ufe0f")
def test_no_text_is_split_within_a_character_or_loses_one(text: str) -> None:
    found = tokenize(text)
    assert all(text[start : start + len(token)] == token for token, start in found)
    assert "".join(token for token, _ in found) == "".join(text.split())
    starts = {start for _, start in found} | {start + len(token) for token, start in found}
    for one, other in pairwise([*(match.start() for match in CLUSTER.finditer(text)), len(text)]):
        if not any(map(str.isspace, text[one:other])):  # white space separates, also where a mark is on it
            assert not any(one < start < other for start in starts), text[one:other]
