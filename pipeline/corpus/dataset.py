"""A data set's splits, by the reader of its format."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from pipeline.core.names import composed
from pipeline.core.records import Post
from pipeline.corpus import conll, csv, jsonl
from pipeline.corpus.reading import unique_ids
from pipeline.settings.params import DataParams, Split

_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+?\d+")
"""A long number as a spreadsheet shows it, and saves it: 7.91E+17."""
_DIGITS = 15
"""So many of a number's digits a spreadsheet keeps; the others become zeros."""
_BY_CHANCE = 5
"""Zeros behind those, in all ids together, that a data set may well have by chance."""


def read_split(data: DataParams, split: Split, odd: Counter[str] | None = None) -> list[Post]:
    """Read the files of one split in the data set's format, rename types, and make ids unique (`id`, `id#2`, …).

    Args:
        data: where the data set lies and how it is written.
        split: which of its splits.
        odd: counts what was skipped, dropped or given twice, by the names of :data:`pipeline.corpus.report.ODD`.

    Raises:
        UserError: a file is missing or malformed.
    """
    readers: dict[str, Callable[..., list[Post]]] = {
        "conll": partial(conll.read, label_column=data.label_column),
        "jsonl": jsonl.read,
        "csv": csv.read,
    }
    odd = Counter() if odd is None else odd
    posts: list[Post] = []
    for path in data.files(split):
        posts += readers[data.format](path, scheme=data.scheme, image_name=data.image_name, types=data.types, odd=odd)
    unique = list(unique_ids(posts))
    odd["rounded_ids"] += _n_rounded([post.id for post in posts])
    firsts: dict[str, str] = {}
    for post, given in zip(unique, posts, strict=True):
        same_form = firsts.setdefault(composed(given.id), given.id) == given.id
        if post.id != given.id:
            odd["repeated_ids" if same_form else "ids_in_other_forms"] += 1
    return unique


def _n_rounded(ids: Sequence[str]) -> int:
    """How many ids a spreadsheet has rounded: to 7.91E+17, or to zeros at the end of every long number there is."""
    long = [each for each in ids if len(each) > _DIGITS and each.isascii() and each.isdigit()]
    zeros = [len(each) - _DIGITS for each in set(long) if not each[_DIGITS:].strip("0")]
    cut = len(long) if len(zeros) == len(set(long)) and sum(zeros) > _BY_CHANCE else 0
    return cut + sum(_ROUNDED.fullmatch(each) is not None for each in ids)
