"""A data set's splits, by the reader of its format."""

import re
from collections import Counter
from collections.abc import Callable
from functools import partial

from pipeline.core.records import Post
from pipeline.corpus import conll, csv, jsonl
from pipeline.corpus.reading import unique_ids
from pipeline.settings.params import DataParams, Split

_ROUNDED = re.compile(r"\d([.,]\d+)?[eE]\+?\d+")
"""A long number as a spreadsheet shows it, and saves it: 7.91E+17."""


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
    odd["rounded_ids"] += sum(_ROUNDED.fullmatch(post.id) is not None for post in posts)
    odd["repeated_ids"] += sum(post.id != given.id for post, given in zip(unique, posts, strict=True))
    return unique
