"""Posts of which somebody has said whether their pictures add to their meaning: a split of its own, without labels.

Two formats, told apart by the file's name: JSON Lines as :mod:`pipeline.corpus.jsonl` reads them, with `relation`; and
the CSV file of the text-image relationship data set (Vempala and Preoţiuc-Pietro, ACL 2019) while it held the tweets'
texts, of which `image_adds` is the relation that RpBERT learns.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.core.files import numbered_lines
from pipeline.core.records import Post, RelationPost
from pipeline.corpus.dataset import limited
from pipeline.corpus.reading import Labels, Problems, from_row, unique_ids, without_mark
from pipeline.settings.params import DataParams

_COLUMNS = ("tweet_id", "tweet", "image_adds")
_LAST_LINK = re.compile(r" https?://t\.co/\w+$")
"""That of the picture itself, which is no part of the text."""


def each_of_relation(data: DataParams, odd: Counter[str] | None = None) -> Iterator[RelationPost]:
    """Read the files of `data.relation`, ids made unique (`id`, `id#2`, …).

    Args:
        data: where the data set lies.
        odd: counts what is odd, by the names of :data:`pipeline.corpus.report.ODD`.

    Raises:
        UserError: a file is missing or malformed; the first few problems are named.
    """
    odd = Counter() if odd is None else odd
    return limited(unique_ids(_of_files(data, odd)), data, odd)


def _of_files(data: DataParams, odd: Counter[str]) -> Iterator[RelationPost]:
    for path in (data.root / name for name in data.relation):
        rows: Callable[[Path, DataParams, Counter[str]], Iterator[tuple[Post, int] | str]]
        rows = _csv if path.suffix.lower() == ".csv" else _jsonl
        problems = Problems(path)
        for row in rows(path, data, odd):
            if isinstance(row, str):
                problems.add(row)
            elif not problems.count:
                post, relation = row
                yield RelationPost(post.id, post.tokens, post.images, 1 if relation else 0)
        problems.refuse()


def _jsonl(path: Path, data: DataParams, odd: Counter[str]) -> Iterator[tuple[Post, int] | str]:
    """Posts and their relations, or what is wrong with a line."""
    known = Labels(data.scheme, data.types)
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(without_mark(line, odd))
            relation = row.pop("relation", None) if isinstance(row, dict) else None
            post = from_row(row, known, data.image_name, odd)
            if type(relation) is not int or relation not in (0, 1):
                raise ValueError(f"relation: expected 0 or 1, found {relation!r}")
        except (ValueError, RecursionError) as error:  # a JSONDecodeError is a ValueError
            yield f"{path}:{number}: {error}"
            continue
        yield post, relation


def _csv(path: Path, data: DataParams, odd: Counter[str]) -> Iterator[tuple[Post, int] | str]:
    """As :func:`_jsonl`, of the data set's own format: a quote in a field stands behind a backslash."""
    known = Labels(data.scheme, data.types)
    lines = (without_mark(line, odd) if number == 1 else line for number, line in numbered_lines(path))
    rows = csv.DictReader((f"{line}\n" for line in lines), doublequote=False, escapechar="\\", strict=True)
    try:
        header = list(rows.fieldnames or ())
        if missing := [name for name in _COLUMNS if name not in header]:
            found = ", ".join(map(repr, header[:12]))
            yield (
                f"{path}:1: expected a header with the columns {', '.join(_COLUMNS)}; {', '.join(missing)} is missing, "
                f"found {found}; posts of your own go into JSON Lines, with relation: 0 or 1"
            )
            return
        for row in rows:
            where, relation, tweet = f"{path}:{rows.line_num}", row["image_adds"], row["tweet"] or ""
            if relation not in ("0", "1") or None in row:
                yield f"{where}: image_adds: expected 0 or 1 and {len(header)} fields, found {relation!r}"
                continue
            post = {"id": row["tweet_id"], "text": _LAST_LINK.sub("", tweet), "image": f"T{row['tweet_id']}.jpg"}
            try:
                yield from_row(post, known, data.image_name, odd), int(relation)
            except ValueError as error:
                yield f"{where}: {error}"
    except csv.Error as error:  # the reader has lost its place
        yield f"{path}:{rows.line_num}: not CSV: {error}"
