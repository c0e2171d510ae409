"""A data set's splits, by the reader of its format."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipeline.core.errors import UserError
from pipeline.core.names import composed
from pipeline.core.records import Post, RelationPost
from pipeline.corpus import conll, csv, jsonl, label_studio, parquet
from pipeline.corpus.reading import unique_ids
from pipeline.settings.params import DataParams, Split

P = TypeVar("P", Post, RelationPost)

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
        UserError: a file is missing or malformed, or some posts of a split that is scored have labels and others none.
    """
    readers: dict[str, Callable[..., list[Post]]] = {
        "conll": partial(conll.read, label_column=data.label_column),
        "jsonl": partial(jsonl.read, spans=data.spans),
        "csv": csv.read,
        "datasets": parquet.read,
        "label_studio": partial(label_studio.read, spans=data.spans),
    }
    odd = Counter() if odd is None else odd
    posts: list[Post] = []
    files: list[tuple[Path, list[Post]]] = []
    for path in data.files(split):
        read = readers[data.format]
        found = read(path, scheme=data.scheme, image_name=data.image_name, types=data.types, odd=odd)
        files.append((path, found))
        posts += found
    if split != "train":
        _require_alike(split, files)
    posts = limited(posts, data, odd)
    unique = list(unique_ids(posts))
    odd["rounded_ids"] += _n_rounded([post.id for post in posts])
    firsts: dict[str, str] = {}
    for post, given in zip(unique, posts, strict=True):
        same_form = firsts.setdefault(composed(given.id), given.id) == given.id
        if post.id != given.id:
            odd["repeated_ids" if same_form else "ids_in_other_forms"] += 1
    return unique


def limited(posts: list[P], data: DataParams, odd: Counter[str]) -> list[P]:
    """The posts of a split that `data.limit` lets through; the others are counted."""
    kept = posts[: data.limit]
    odd["beyond_limit"] += len(posts) - len(kept)
    return kept


def _require_alike(split: Split, files: Sequence[tuple[Path, Sequence[Post]]]) -> None:
    """See that all posts of a split have labels, or none.

    Raises:
        UserError: some have; it names a post and the files.
    """
    lacking = [(path, post) for path, posts in files for post in posts if post.labels is None]
    labelled = [path for path, posts in files for post in posts if post.labels is not None]
    if lacking and labelled:
        path, post = lacking[0]
        raise UserError(
            f"data.{split}: {len(lacking):,} of {len(lacking) + len(labelled):,} posts have no labels, the first of "
            f"them {post.id} of {path}; others have, such as those of {labelled[0]}. A split is scored as a whole: "
            "leave those without labels out, or give them a split of their own, which is then predicted only, or "
            "name them in data.unlabelled to learn from"
        )


def _n_rounded(ids: Sequence[str]) -> int:
    """How many ids a spreadsheet has rounded: to 7.91E+17, or to zeros at the end of every long number there is."""
    long = [each for each in ids if len(each) > _DIGITS and each.isascii() and each.isdigit()]
    zeros = [len(each) - _DIGITS for each in set(long) if not each[_DIGITS:].strip("0")]
    cut = len(long) if len(zeros) == len(set(long)) and sum(zeros) > _BY_CHANCE else 0
    return cut + sum(_ROUNDED.fullmatch(each) is not None for each in ids)
