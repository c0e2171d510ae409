"""Posts that nobody has labelled, for the alignment to learn from: a split of its own, of any number of files.

A file's format is told by its name, and of CoNLL-like files and plain text by what is in them, so that a data set may
have labelled posts in one format and others in another. Labels that are there all the same are not read.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.files import numbered_lines
from pipeline.core.records import Post
from pipeline.core.tokens import tokenize
from pipeline.corpus import conll, csv, jsonl, parquet
from pipeline.corpus.dataset import limited
from pipeline.corpus.reading import numbered, without_mark
from pipeline.settings.params import DataParams

_LOOKED_AT = 100  # lines
_BY_NAME: dict[str, Callable[..., Iterator[Post]]] = {".jsonl": jsonl.each, ".csv": csv.each, ".parquet": parquet.each}


def each_unlabelled(data: DataParams, odd: Counter[str] | None = None) -> Iterator[Post]:
    """Read the files of `data.unlabelled`, without labels, ids made unique (`id`, `id#2`, …).

    A name that ends in .jsonl is JSON Lines, one in .csv a CSV file, one in .parquet a Parquet file. Any other file is
    CoNLL-like where a line begins with ``IMGID:`` or holds a tab, else a text with a post a line, without pictures.

    Args:
        data: where the data set lies.
        odd: counts what is odd, by the names of :data:`pipeline.corpus.report.ODD`.

    Raises:
        UserError: a file is missing or malformed.
    """
    odd = Counter() if odd is None else odd
    posts = (post for name in data.unlabelled for post in _read(data.root / name, data, odd))
    for post, same_form in numbered(_without_labels(limited(posts, data, odd), odd)):
        odd["repeated_ids"] += same_form is not None
        yield post


def _without_labels(posts: Iterable[Post], odd: Counter[str]) -> Iterator[Post]:
    for post in posts:
        odd["labels_not_read"] += post.labels is not None
        yield replace(post, labels=None)


def _read(path: Path, data: DataParams, odd: Counter[str]) -> Iterator[Post]:
    if (read := _BY_NAME.get(path.suffix.lower())) is not None:
        return read(path, scheme=data.scheme, image_name=data.image_name, types=data.types, odd=odd)
    if any(line.lstrip("\ufeff").startswith("IMGID:") or "\t" in line.strip("\t") for line in _first_lines(path)):
        return conll.each(
            path,
            label_column=data.label_column,
            scheme=data.scheme,
            image_name=data.image_name,
            types=data.types,
            odd=odd,
        )
    return _read_text(path, odd)


def _first_lines(path: Path) -> list[str]:
    return [line for _, line in islice(numbered_lines(path), _LOOKED_AT)]


def _read_text(path: Path, odd: Counter[str]) -> Iterator[Post]:
    """A post a line, called by the file and the line's number; blank lines are none.

    Raises:
        UserError: every line is one token, as in a CoNLL-like file without ``IMGID:`` lines.
    """
    count, single = 0, True
    for number, line in numbered_lines(path):
        if line.strip():
            tokens = [token for token, _ in tokenize(without_mark(line, odd))]
            count, single = count + 1, single and len(tokens) == 1
            yield Post(f"{path.stem}-{number}", tokens, None, [])
    if count > 1 and single:
        raise UserError(
            f"{path}: every line is one token; expected a post a line, or for a post whose tokens have a line each, "
            "IMGID:<id> in the line before them"
        )
