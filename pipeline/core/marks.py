"""How a data set writes mentions and hashtags, joined (`@ManUtd`) or apart (`@ ManUtd`), and posts written its way.

Twitter-2015 joins them, Twitter-2017 writes them apart. A tagger trained on one finds little in the other, so what it
is to tag is first written as its training data was.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.core.tokens import tokenize

MARKS = ("@", "#")
_JOINED = re.compile(r"[@#](?=\w)")
_WORD = re.compile(r"\w")
_RARE = 0.01  # a way of writing a mark that is rarer than this is a slip of the data's

Counts = Mapping[str, Mapping[str, int]]
"""Mark → how often it stands ``joined`` to a word and ``apart`` from the one behind it."""


def count(posts: Iterable[Sequence[str]]) -> dict[str, dict[str, int]]:
    """How often mentions and hashtags are written either way in tokens of posts, by mark (:data:`Counts`)."""
    found = {mark: {"joined": 0, "apart": 0} for mark in MARKS}
    for tokens in posts:
        for place, token in enumerate(tokens):
            if token[:1] in found:
                if _JOINED.match(token):
                    found[token[0]]["joined"] += 1
                elif _stands_apart(tokens, place):
                    found[token]["apart"] += 1
    return found


def _stands_apart(tokens: Sequence[str], place: int) -> bool:
    return tokens[place] in MARKS and place + 1 < len(tokens) and _WORD.match(tokens[place + 1]) is not None


class Writing:
    """Texts and tokens, written as a data set writes its mentions and hashtags.

    Args:
        counts: those of the data set; None leaves all as it is.

    Attributes:
        apart: the marks that the data set separates from their words, for the most part.
        joined: the marks that it (nearly) always joins to their words.

    Raises:
        ValueError: they are no counts.
    """

    def __init__(self, counts: Counts | None) -> None:
        ways = [(mark, *_ways(mark, found)) for mark, found in _checked(counts).items()]
        self.apart = frozenset(mark for mark, joined, apart in ways if apart > joined)
        self.joined = frozenset(mark for mark, joined, apart in ways if joined and apart < _RARE * joined)

    def split(self, text: str) -> list[tuple[str, int]]:
        """A text's tokens and where each starts, by :func:`pipeline.core.tokens.tokenize`; marks as the data has them.

        No mark is joined to a word that the text separates from it.
        """
        return list(self._separated(tokenize(text))) if self.apart else tokenize(text)

    def adapt(self, tokens: Sequence[str]) -> tuple[list[str], list[tuple[int, int]]] | None:
        """Tokens written the data set's way, or None where they are.

        A mark is joined to the word behind it only where the data set (nearly) always does so: tokens do not tell
        `meet me @ home` from `thanks @ home`.

        Returns:
            the tokens, and of each the given ones that it is made of: the first, and the one behind the last.
        """
        found: list[tuple[str, tuple[int, int]]] = []
        place = 0
        while place < len(tokens):
            token = tokens[place]
            if token in self.joined and _stands_apart(tokens, place):
                found.append((token + tokens[place + 1], (place, place + 2)))
                place += 2
                continue
            found += ((piece, (place, place + 1)) for piece, _ in self._separated([(token, 0)]))
            place += 1
        written = [token for token, _ in found]
        return None if written == list(tokens) else (written, [span for _, span in found])

    def _separated(self, tokens: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
        for token, start in tokens:
            if token[:1] in self.apart and _JOINED.match(token):
                yield token[0], start
                yield token[1:], start + 1
            else:
                yield token, start


def _checked(counts: Any) -> Counts:
    if counts is None:
        return {}
    if not isinstance(counts, Mapping) or not set(counts) <= set(MARKS):
        raise ValueError(f"expected counts of {' and '.join(MARKS)}, found {counts!r:.80}")
    return counts


def _ways(mark: str, found: Any) -> tuple[int, int]:
    joined, apart = (found.get("joined"), found.get("apart")) if isinstance(found, Mapping) else (None, None)
    if not isinstance(joined, int) or not isinstance(apart, int) or min(joined, apart) < 0:
        raise ValueError(f"{mark}: expected how often it is joined and how often apart, found {found!r:.80}")
    return joined, apart
