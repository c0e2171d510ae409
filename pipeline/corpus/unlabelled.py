"""Posts that nobody has labelled, for the alignment to learn from: a split of its own, of any number of files.

A file's format is told by its name, and of CoNLL-like files and plain text by what is in them, so that a data set may
have labelled posts in one format and others in another. Labels that are there all the same are not read.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.files import after_line, numbered_lines
from pipeline.core.records import Post
from pipeline.core.tokens import tokenize
from pipeline.corpus import conll, csv, jsonl, parquet
from pipeline.corpus.reading import Portion, Throughout, lines_of, without_mark
from pipeline.corpus.sources import Source
from pipeline.settings.params import DataParams

_LOOKED_AT = 100  # lines
_BY_NAME: dict[str, Callable[..., Iterator[Post]]] = {".jsonl": jsonl.each, ".csv": csv.each, ".parquet": parquet.each}


def source(path: Path, data: DataParams) -> Source:
    """A file of `data.unlabelled`, and its reader; one that cannot be read is an error once it is.

    A name that ends in .jsonl is JSON Lines, one in .csv a CSV file, one in .parquet a Parquet file. Any other file is
    CoNLL-like where a line begins with ``IMGID:`` or holds a tab, else a text with a post a line, without pictures.

    Args:
        path: the file.
        data: how its posts are written.
    """
    options: dict[str, Any] = {"scheme": data.scheme, "image_name": data.image_name, "types": data.types}
    ending = path.suffix.lower()
    if (read := _BY_NAME.get(ending)) is not None:
        return Source(path, partial(read, **options), after_line if ending == ".jsonl" else None)
    if any(line.lstrip("\ufeff").startswith("IMGID:") or "\t" in line.strip("\t") for line in _first_lines(path)):
        read = partial(conll.each, label_column=data.label_column, **options)
        return Source(path, read, conll.after_post)
    return Source(path, each_of_text, after_line)


def _first_lines(path: Path) -> Iterator[str]:
    with suppress(UserError):
        yield from (line for _, line in islice(numbered_lines(path), _LOOKED_AT))


def each_of_text(
    path: Path,
    *,
    odd: Counter[str],
    portion: Portion | None = None,
) -> Iterator[Post]:
    """A post a line, called by the file and the line's number; blank lines are none.

    Args:
        path: the file.
        odd: counts what is odd.
        portion: of the file, where that is read in pieces; of its posts is told which are one token.

    Raises:
        UserError: every line is one token, as in a CoNLL-like file without ``IMGID:`` lines.
    """
    single = Throughout() if portion is None else portion.throughout
    for number, line in lines_of(path, portion):
        if line.strip():
            tokens = [token for token, _ in tokenize(without_mark(line, odd))]
            single.add(len(tokens) == 1)
            yield Post(f"{path.stem}-{number}", tokens, None, [])
    if portion is None and single.posts > 1 and single.holds:
        raise UserError(
            f"{path}: every line is one token; expected a post a line, or for a post whose tokens have a line each, "
            "IMGID:<id> in the line before them"
        )
