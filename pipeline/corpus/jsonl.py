"""JSON Lines, a post a line: `id`, `tokens` and perhaps `labels`, or `text` and perhaps `spans`, and `images`."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.files import numbered_lines
from pipeline.core.labels import Scheme
from pipeline.core.records import Post
from pipeline.corpus.reading import AS_THEY_ARE, Labels, finish, from_row, without_mark
from pipeline.corpus.spans import of_row
from pipeline.settings.params import SpanMode


def read(
    path: str | Path,
    *,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = AS_THEY_ARE,
    odd: Counter[str] | None = None,
    spans: SpanMode = "snap",
) -> list[Post]:
    """Read posts from JSON Lines.

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

    Raises:
        UserError: the file is missing, not UTF-8, or has malformed lines; the first few are named.
    """
    path, known = Path(path), Labels(scheme, types)
    odd = Counter() if odd is None else odd
    posts, problems = [], []
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(without_mark(line, odd))
            posts.append(from_row(of_row(row) if isinstance(row, dict) else row, known, image_name, odd, spans))
        except (ValueError, RecursionError) as error:  # a JSONDecodeError is a ValueError
            problems.append(f"{path}:{number}: {error}")
    return finish(path, posts, problems, known, odd)
