"""A data set's splits, by the reader of its format."""

from collections.abc import Callable
from functools import partial

from pipeline.core.records import Post
from pipeline.corpus import conll, csv, jsonl
from pipeline.corpus.reading import unique_ids
from pipeline.settings.params import DataParams, Split


def read_split(data: DataParams, split: Split) -> list[Post]:
    """Read the files of one split in the data set's format, rename types, and make ids unique (`id`, `id#2`, …).

    Raises:
        UserError: a file is missing or malformed.
    """
    readers: dict[str, Callable[..., list[Post]]] = {
        "conll": partial(conll.read, label_column=data.label_column),
        "jsonl": jsonl.read,
        "csv": csv.read,
    }
    posts: list[Post] = []
    for path in data.files(split):
        posts += readers[data.format](path, scheme=data.scheme, image_name=data.image_name, types=data.types)
    return list(unique_ids(posts))
