"""Spans of a post that its context names with a type in words, as in "Oprah (person)" or "1. Chicago Bulls (NBA team)".

A rule, no model: what stands before a pair of brackets is a name, what stands in it says what that is. What is learned
from this is left to :mod:`ner.training.context_targets`.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.settings.training import ContextSpansParams

_BRACKETS = re.compile(r"\(([^()]{1,200})\)")
_ITEM = re.compile(r"(?:^|(?<=[\s:.)\]]))\d{1,3}[.)]\s*|(?:^|\n)[^\S\n]*[-*•]\s+")
_ALTERNATIVES = re.compile(r"[/,;&]|\bor\b|\band\b")
_BEHIND_HEAD = re.compile(
    r"\b(?:of|in|for|at|on|from|by|with|to|near|within|who|that|which|where|whose|known|called|named|located|based)\b"
)
_MOST_WORDS = 8  # of a name that no list sets off from what comes before it


class Span(NamedTuple):
    """Tokens `start` up to, not including, `end`, which a context names."""

    start: int
    end: int
    type: str | None
    """of the table; O: no entity; None: the table has no such words."""
    words: str
    """what the context calls it."""


class NamedSpans:
    """Finds in posts what their contexts name.

    Args:
        params: type words, and whether names may be mentions.
    """

    def __init__(self, params: ContextSpansParams) -> None:
        self.mentions = params.mentions
        self._types = {word.casefold(): name for name, words in params.types.items() for word in words}

    def of(self, tokens: Sequence[str], context: str) -> list[Span] | None:
        """The spans of a post, in order, without overlap: of overlapping ones the longest, then the first.

        A name is where the letters and digits of some tokens in a row are its own, whatever their case, so that
        "#Oprah" is Oprah and "U.S." is "U . S .". An "@Oprah", or "@ Oprah", is not unless mentions count.

        Args:
            tokens: the post's.
            context: what is known of it, uncut.

        Returns:
            None where the context names nothing in this way, in this post or out of it.
        """
        written = list(named(context))
        if not written:
            return None
        letters = [_letters(token) for token in tokens]
        found = [
            Span(*place, self.type_of(words), words)
            for names, words in written
            for place in _first_found(letters, names)
            if self.mentions or not _is_mention(tokens, place[0])
        ]
        taken: set[int] = set()
        spans = []
        for span in sorted(found, key=lambda span: span.start - span.end):  # stable: of equals, the first that is named
            places = range(span.start, span.end)
            if taken.isdisjoint(places):
                taken.update(places)
                spans.append(span)
        return sorted(spans)

    def type_of(self, words: str) -> str | None:
        """The type that words such as "former NBA player/coach" mean: that of the first alternative with one.

        Of an alternative, what comes before a preposition or a clause counts, and of that the longest end that is in
        the table, in the singular if it is not there in the plural.
        """
        for alternative in _ALTERNATIVES.split(words.casefold()):
            head = re.findall(r"\w+", _BEHIND_HEAD.split(alternative)[0])
            for start in range(len(head)):
                end = " ".join(head[start:])
                if (found := self._types.get(end) or self._types.get(end.removesuffix("s"))) is not None:
                    return found
        return None


def named(context: str) -> Iterator[tuple[list[str], str]]:
    """What a context names: of each name the spellings to look for, the best first, and the words for its type.

    In a list (numbers, hyphens, bullets) a name is all that stands behind the mark; elsewhere the longest end of what
    stands before the bracket that a post has and that begins with no small letter.
    """
    begin = 0
    for match in _BRACKETS.finditer(context):
        before, begin = context[begin : match.start()], match.end()
        marks = list(_ITEM.finditer(before))
        if marks:
            names = [before[marks[-1].end() :]]
        else:
            words = before.split()[-_MOST_WORDS:]
            names = [" ".join(words[start:]) for start, word in enumerate(words) if not word[0].islower()]
        if any(map(_letters, names)):
            yield names, match[1].strip()


def _first_found(letters: Sequence[str], names: Sequence[str]) -> list[tuple[int, int]]:
    """Where the first of some names that a post has stands in it, each time."""
    return next((places for name in names if (places := _places(letters, _letters(name)))), [])


def _places(letters: Sequence[str], name: str) -> list[tuple[int, int]]:
    found = []
    for start, first in enumerate(letters):
        if not first or not name.startswith(first):
            continue
        length = 0
        for end, more in enumerate(letters[start:], start + 1):
            if not name.startswith(more, length):
                break
            length += len(more)
            if length == len(name):
                found.append((start, end))
                break
    return found


def _letters(text: str) -> str:
    """Letters, marks and digits alone, without case, NFC."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LMN")


def _is_mention(tokens: Sequence[str], start: int) -> bool:
    return tokens[start].startswith("@") or (start > 0 and tokens[start - 1] == "@")


def labels_of(spans: Sequence[Span], n_tokens: int) -> list[str]:
    """Spans with a type as IOB2 labels, O elsewhere."""
    labels = ["O"] * n_tokens
    for start, end, kind, _ in spans:
        if kind not in (None, "O"):
            labels[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return labels
