"""Splitting the text of a tweet into tokens that keep their character offsets.

Used wherever a tweet comes as text: in a data set, and on the command line of the prediction. What an encoder makes of
a token is left to the encoder's own tokenizer.

What a reader takes for one character (a grapheme cluster: a letter with its marks, joined emoji, a flag, a keycap) is
never split. Most tweets have none that is longer than a code point: Python's own `re` splits those, in a third of the
time that the `regex` library takes, by the same rules.
"""

import re

import regex

# In this order: URLs, user names and hashtags, letters of scripts that put no spaces between words, numbers and words
# with inner marks, emoticons, a run of the same sign; whatever else there is, by itself.
_RULES = r"""(?: https?://{any}+ | www\.{any}+ | [@#]{letter}+ | {alone} | {word}+(?:[.,:'’\-_/&@]{word}+)*
  | [:;=8xX][\-o*']?[()\[\]dDpP/\\|]+ | <3+ | ({sign})\1+ ){whole} | {cluster}"""

_SIMPLE = re.compile(
    _RULES.format(any=r"\S", letter=r"\w", alone=r"(?!)", word=r"\w", sign=r"[^\w\s]", whole="", cluster=r"\S"),
    re.VERBOSE,
)

_SPACE = r"\s\x1c-\x1f"  # as `re` and str.split have it
_NO_SPACES = (  # ー is common to Hiragana and Katakana
    r"[\p{L}&&[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\u30fc\uff70\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]"
)
_PREFIX = r"\p{GCB=Prepend}"
_MARK = r"[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}]"
_LETTER = rf"[[\p{{L}}\p{{N}}_]--[{_PREFIX}\p{{Extended_Pictographic}}]]"


def _marked(letter: str) -> str:
    """A letter with what belongs to it; not a digit that is a keycap."""
    return rf"(?:{_PREFIX}*+{letter}(?!(?<=[0-9])[\ufe0f\u20e3]){_MARK}*+)"


_CLUSTERS = regex.compile(
    _RULES.format(
        any=rf"[^{_SPACE}]",
        letter=_marked(_LETTER),
        alone=rf"(?={_NO_SPACES})\X",
        word=_marked(rf"[{_LETTER}--{_NO_SPACES}]"),
        sign=rf"(?=[^\p{{L}}\p{{N}}_{_SPACE}{_PREFIX}])\X",
        whole=rf"(?!{_MARK})",
        cluster=rf"{_PREFIX}++(?=[{_SPACE}]|\Z) | (?=[^{_SPACE}])\X",
    ),
    regex.VERBOSE | regex.VERSION1,
)
_ONE_BY_ONE = re.compile(
    r"[\x00-\u02ff\u0370-\u0482\u048a-\u052f\u1e00-\u1fff\u2010-\u2027\u2030-\u205e\u20a0-\u20bf\u2100-\u2138\u213a-\u27bf"
    r"\uac00-\ud7a3\U0001f300-\U0001f3fa\U0001f400-\U0001f64f\U0001f680-\U0001f6ff\U0001f900-\U0001f9ff]*"
)
"""A text in which every code point is a character by itself: Latin, Greek, Cyrillic, Korean, most signs and emoji."""


def tokenize(text: str) -> list[tuple[str, int]]:
    """A tweet's tokens and where each starts: whitespace split, then marks apart from words.

    URLs, user names, hashtags, emoticons, emoji and runs of one sign stay whole. Where a script puts no spaces between
    words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) every character is a token, as in the data sets of these
    languages that are labelled by character. Offsets count code points of `text`.
    """
    rules = _SIMPLE if text.isascii() or _ONE_BY_ONE.fullmatch(text) else _CLUSTERS
    return [(match.group(), match.start()) for match in rules.finditer(text)]
