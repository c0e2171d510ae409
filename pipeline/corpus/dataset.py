"""A data set's splits, by the reader of its format."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.errors import UserError
from pipeline.core.files import after_line
from pipeline.core.records import Post
from pipeline.corpus import conll, csv, jsonl, label_studio, parquet, unlabelled
from pipeline.corpus.described import Described
from pipeline.corpus.reading import P, numbered
from pipeline.corpus.sources import Source
from pipeline.settings.params import DataParams, PostSplit

L = TypeVar("L", Post, Described)

_AFTER = {"conll": conll.after_post, "jsonl": after_line}
"""Where pieces of a file may end, of the formats that are read in pieces."""

_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+?\d+")
"""A long number as a spreadsheet shows it, and saves it: 7.91E+17."""
_DIGITS = 15
"""So many of a number's digits a spreadsheet keeps; the others become zeros."""
_BY_CHANCE = 5
"""Zeros behind those, in all ids together, that a data set may well have by chance."""


def each_of_split(data: DataParams, split: PostSplit, odd: Counter[str] | None = None) -> Iterator[Post]:
    """Read the files of one split, rename types, and make ids unique (`id`, `id#2`, …).

    Args:
        data: where the data set lies and how it is written.
        split: which of its splits; of posts of `unlabelled`, labels are not read.
        odd: counts what was skipped, dropped or given twice, by the names of :data:`pipeline.corpus.report.ODD`.

    Raises:
        UserError: a file is missing or malformed, or some posts of a split that is scored have labels and others none.
    """
    odd = Counter() if odd is None else odd
    return settled(of_files(data, split, odd), split, odd)


def of_files(data: DataParams, split: PostSplit, odd: Counter[str]) -> Iterator[Post]:
    """As :func:`each_of_split`, ids as they are."""
    given = ((source.path, post) for source in sources(data, split) for post in source.posts(odd))
    return read_of(limited(alike(given, split), data, odd), split, odd)


def read_of(posts: Iterable[Post], split: PostSplit, odd: Counter[str]) -> Iterator[Post]:
    """The posts of a split without labels that are not read there, which are counted."""
    for post in posts:
        if split == "unlabelled" and post.labels is not None:
            odd["labels_not_read"] += 1
            post = replace(post, labels=None)
        yield post


def sources(data: DataParams, split: PostSplit) -> Iterator[Source]:
    """The files of one split, each with its reader."""
    if split == "unlabelled":
        yield from (unlabelled.source(data.root / name, data) for name in data.unlabelled)
        return
    options: dict[str, Any] = {"scheme": data.scheme, "image_name": data.image_name, "types": data.types}
    readers: dict[str, Callable[..., Iterator[Post]]] = {
        "conll": partial(conll.each, label_column=data.label_column),
        "jsonl": partial(jsonl.each, spans=data.spans),
        "csv": csv.each,
        "datasets": parquet.each,
        "label_studio": partial(label_studio.each, spans=data.spans),
    }
    for path in data.files(split):
        yield Source(path, partial(readers[data.format], **options), _AFTER.get(data.format))


def limited(posts: Iterable[P], data: DataParams, odd: Counter[str]) -> Iterator[P]:
    """The posts of a split that `data.limit` lets through; the others are counted."""
    for number, post in enumerate(posts):
        if data.limit is None or number < data.limit:
            yield post
        else:
            odd["beyond_limit"] += 1


def settled(posts: Iterable[L], split: PostSplit, odd: Counter[str]) -> Iterator[L]:
    """The posts of a split, ids made unique; what is odd about their ids is counted."""
    rounded = _Rounded()
    for post, same_form in numbered(posts if split == "unlabelled" else rounded.noted(posts)):
        if same_form is not None:
            odd["repeated_ids" if same_form or split == "unlabelled" else "ids_in_other_forms"] += 1
        yield post
    odd["rounded_ids"] += rounded.count


def alike(posts: Iterable[tuple[Path, L]], split: PostSplit) -> Iterator[L]:
    """The posts of a split, each given with its file.

    Raises:
        UserError: behind the last of them: some have labels and others none, where all are to be scored or predicted.
    """
    lacking = labelled = 0
    first_lacking = first_labelled = ""
    for path, post in posts:
        if post.labels is None:
            first_lacking = first_lacking or f"{post.id} of {path}"
            lacking += 1
        else:
            first_labelled = first_labelled or str(path)
            labelled += 1
        yield post
    if split in ("dev", "test") and lacking and labelled:
        raise UserError(
            f"data.{split}: {lacking:,} of {lacking + labelled:,} posts have no labels, the first of them "
            f"{first_lacking}; others have, such as those of {first_labelled}. A split is scored as a whole: leave "
            "those without labels out, or give them a split of their own, which is then predicted only, or name them "
            "in data.unlabelled to learn from"
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
