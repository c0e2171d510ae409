"""JSON Lines, a post a line: `id`, `tokens` and perhaps `labels`, or `text` and perhaps `spans`, and `images`."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.core.labels import Scheme
from pipeline.core.records import Post
from pipeline.corpus.reading import (
    AS_THEY_ARE,
    Labels,
    Portion,
    Problems,
    final,
    from_row,
    lines_of,
    listed,
    without_mark,
)
from pipeline.corpus.spans import of_row
from pipeline.settings.params import SpanMode


def each(
    path: str | Path,
    *,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = AS_THEY_ARE,
    odd: Counter[str] | None = None,
    spans: SpanMode = "snap",
    portion: Portion | None = None,
) -> Iterator[Post]:
    """Read posts from JSON Lines, as they come.

    `images` is a list of file names, `image` one; without either, `image_name` says how the id names the picture. A
    `text` is split by :func:`pipeline.core.tokens.tokenize`; its labels are `spans`, or as doccano writes them
    (:mod:`pipeline.corpus.spans`).

    Args:
        path: the file.
        scheme: what the labels are written in; they become IOB2.
        image_name: how an id names its picture, or None for no picture.
        types: new names of entity types; types it does not name stay.
        odd: counts what is skipped and what is dropped, by the names of :data:`pipeline.corpus.report.ODD`.
        spans: what becomes of a span that begins or ends inside of a token.
        portion: of the file, where that is read in pieces.

    Raises:
        UserError: the file is missing, not UTF-8, or has malformed lines; the first few are named.
    """
    path, known = Path(path), Labels(scheme, types)
    odd = Counter() if odd is None else odd
    problems = Problems(path)

    def posts() -> Iterator[Post]:
        for number, line in lines_of(path, portion):
            if not line.strip():
                continue
            try:
                row = json.loads(without_mark(line, odd))
                post = from_row(of_row(row) if isinstance(row, dict) else row, known, image_name, odd, spans)
            except (ValueError, RecursionError) as error:  # a JSONDecodeError is a ValueError
                problems.add(f"{path}:{number}: {error}")
            else:
                yield post

    return final(posts(), problems, known, odd)


read = listed(each)
