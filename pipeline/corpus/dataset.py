"""A data set's splits, by the reader of its format."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.records import Post
from pipeline.corpus import conll, csv, jsonl, label_studio, parquet
from pipeline.corpus.reading import P, numbered
from pipeline.settings.params import DataParams, Split

_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+?\d+")
"""A long number as a spreadsheet shows it, and saves it: 7.91E+17."""
_DIGITS = 15
"""So many of a number's digits a spreadsheet keeps; the others become zeros."""
_BY_CHANCE = 5
"""Zeros behind those, in all ids together, that a data set may well have by chance."""


def each_of_split(data: DataParams, split: Split, odd: Counter[str] | None = None) -> Iterator[Post]:
    """Read the files of one split in the data set's format, rename types, and make ids unique (`id`, `id#2`, …).

    Args:
        data: where the data set lies and how it is written.
        split: which of its splits.
        odd: counts what was skipped, dropped or given twice, by the names of :data:`pipeline.corpus.report.ODD`.

    Raises:
        UserError: a file is missing or malformed, or some posts of a split that is scored have labels and others none.
    """
    odd = Counter() if odd is None else odd
    rounded = _Rounded()
    for post, same_form in numbered(rounded.noted(limited(_of_files(data, split, odd), data, odd))):
        if same_form is not None:
            odd["repeated_ids" if same_form else "ids_in_other_forms"] += 1
        yield post
    odd["rounded_ids"] += rounded.count


def _of_files(data: DataParams, split: Split, odd: Counter[str]) -> Iterator[Post]:
    readers: dict[str, Callable[..., Iterator[Post]]] = {
        "conll": partial(conll.each, label_column=data.label_column),
        "jsonl": partial(jsonl.each, spans=data.spans),
        "csv": csv.each,
        "datasets": parquet.each,
        "label_studio": partial(label_studio.each, spans=data.spans),
    }
    read = readers[data.format]
    alike = _Alike(split)
    for path in data.files(split):
        for post in read(path, scheme=data.scheme, image_name=data.image_name, types=data.types, odd=odd):
            alike.add(path, post)
            yield post
    alike.require()


def limited(posts: Iterable[P], data: DataParams, odd: Counter[str]) -> Iterator[P]:
    """The posts of a split that `data.limit` lets through; the others are counted."""
    for number, post in enumerate(posts):
        if data.limit is None or number < data.limit:
            yield post
        else:
            odd["beyond_limit"] += 1


class _Alike:
    """Whether all posts of a split have labels, or none, as is required of those that are scored."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._lacking = self._labelled = 0
        self._first_lacking = self._first_labelled = ""

    def add(self, path: Path, post: Post) -> None:
        if post.labels is None:
            self._first_lacking = self._first_lacking or f"{post.id} of {path}"
            self._lacking += 1
        else:
            self._first_labelled = self._first_labelled or str(path)
            self._labelled += 1

    def require(self) -> None:
        """See that they have; raises UserError, which names a post and the files."""
        if self._split != "train" and self._lacking and self._labelled:
            raise UserError(
                f"data.{self._split}: {self._lacking:,} of {self._lacking + self._labelled:,} posts have no labels, "
                f"the first of them {self._first_lacking}; others have, such as those of {self._first_labelled}. A "
                "split is scored as a whole: leave those without labels out, or give them a split of their own, which "
                "is then predicted only, or name them in data.unlabelled to learn from"
            )


class _Rounded:
    """How many ids a spreadsheet has rounded: to 7.91E+17, or to zeros at the end of every long number there is."""

    def __init__(self) -> None:
        self._shown_short = self._long = 0
        self._zeros: dict[str, int] | None = {}  # of the first few long ids that differ; None: one has others

    def noted(self, posts: Iterable[P]) -> Iterator[P]:
        """The posts themselves, whose ids are looked at as they are gone through."""
        for post in posts:
            each = post.id
            self._shown_short += _ROUNDED.fullmatch(each) is not None
            if len(each) > _DIGITS and each.isascii() and each.isdigit():
                self._long += 1
                if each[_DIGITS:].strip("0"):
                    self._zeros = None
                elif self._zeros is not None and len(self._zeros) <= _BY_CHANCE:
                    self._zeros[each] = len(each) - _DIGITS
            yield post

    @property
    def count(self) -> int:
        """How many, once all have been gone through."""
        cut = self._long if self._zeros and sum(self._zeros.values()) > _BY_CHANCE else 0
        return cut + self._shown_short
