"""CSV files, a post a row, as spreadsheets and tweet dumps have them."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.files import numbered_lines
from pipeline.core.labels import Scheme
from pipeline.core.records import Post
from pipeline.corpus.reading import AS_THEY_ARE, KEYS, Labels, Problems, final, from_row, listed, without_mark

_BRACKETS = re.compile(r"\[.*\]", re.DOTALL)
_LIST = re.compile(r"""[\[(]\s*(['"]).*['"],?\s*[\])] | \[[^\s,]+(,\s?[^\s,]+)+\] | \[\]""", re.DOTALL | re.VERBOSE)
"""Of tokens: quotes or commas tell a list from a tweet in brackets, `[ Video ]`."""


def each(
    path: str | Path,
    *,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = AS_THEY_ARE,
    odd: Counter[str] | None = None,
) -> Iterator[Post]:
    """Read posts from a CSV file: a header, then a row a post, fields with commas or line breaks in double quotes.

    Columns, in any order: `id`; `text`, or `tokens` separated by spaces; perhaps `labels`, separated by spaces, for
    `tokens` alone; perhaps `images`, separated by spaces or semicolons, or `image` (else `image_name` names it). An
    empty field of labels or pictures is null. Other columns, such as those of a tweet dump, are left out. So are the
    headers and byte-order marks of files that were joined.

    Args:
        path: the file.
        scheme: what the labels are written in; they become IOB2.
        image_name: how an id names its picture, or None for no picture.
        types: new names of entity types; types it does not name stay.
        odd: counts what is skipped and what is dropped, by the names of :data:`pipeline.corpus.report.ODD`.

    Raises:
        UserError: the file is missing, not UTF-8, or has malformed rows; the number is that of a row's first line.
    """
    path, known = Path(path), Labels(scheme, types)
    odd = Counter() if odd is None else odd
    problems = Problems(path)

    def posts() -> Iterator[Post]:
        for number, row in stream(numbered_lines(path), odd):
            try:
                if isinstance(row, Exception):
                    raise row
                post = from_row(row, known, image_name, odd)
            except csv.Error as error:  # the reader has lost its place
                problems.add(f"{path}:{number}: {error}")
                return
            except ValueError as error:
                problems.add(f"{path}:{number}: {error}")
                continue
            yield post

    return final(posts(), problems, known, odd)


read = listed(each)


def stream(
    lines: Iterable[tuple[int, str]], odd: Counter[str]
) -> Iterator[tuple[int, dict[str, Any] | ValueError | csv.Error]]:
    """The rows of a table as they come, each an object as :func:`pipeline.corpus.reading.from_row` takes it.

    Args:
        lines: numbered, without their ends.
        odd: counts what is skipped, as for :func:`read`.

    Yields:
        the number of a row's first line; the row, or what is wrong with it: a `csv.Error` where the quotes are, so that
        the rows behind it may be wrong as well. Behind a header that is none there is nothing.
    """
    begins = True  # whether the next line that is read begins a row, and not the inside of a quoted field

    def texts() -> Iterator[str]:
        nonlocal begins
        for _, line in lines:
            text = without_mark(line, odd) if begins else line
            begins = False
            yield f"{text}\n"

    rows = csv.reader(texts(), strict=True)
    header: list[str] | None = None
    while True:
        number, begins = rows.line_num + 1, True
        try:
            fields = next(rows, None)
            if fields is None:
                return
            if not fields:  # a blank line
                continue
            if header is None:
                header = _header(fields)
            elif fields == header:  # of another file that was joined
                odd["repeated_headers"] += 1
            elif len(fields) != len(header):
                raise ValueError(
                    f"{len(fields)} fields, but the header has {len(header)}; a text with a comma stands in double "
                    "quotes, a double quote in it is doubled"
                )
            else:
                yield number, _row(dict(zip(header, fields, strict=True)))
        except csv.Error as error:
            yield number, csv.Error(f"not CSV: {error}")
        except ValueError as error:
            yield number, error
            if header is None:
                return


def _header(fields: list[str]) -> list[str]:
    known = [name for name in fields if name in KEYS]
    if "id" not in known or ("text" in known) == ("tokens" in known) or len(set(known)) < len(known):
        found = ", ".join(map(repr, fields[:12]))
        raise ValueError(
            "expected a header with the columns id, either text or tokens, and perhaps labels and images, separated by "
            f"commas; found {found}"
        )
    return fields


def _row(fields: dict[str, str]) -> dict[str, Any]:
    """The object that the fields of a row stand for; an empty one, as a spreadsheet writes it, is null.

    Raises:
        ValueError: a field holds a list as Python or JSON writes it.
    """
    row: dict[str, Any] = {name: value for name, value in fields.items() if name in KEYS}
    for name, separator in (("tokens", "[ \t\r\n]+"), ("labels", "[ \t\r\n]+"), ("images", "[; \t\r\n]+")):
        if name in row:
            if (_LIST if name == "tokens" else _BRACKETS).fullmatch(row[name].strip()):
                raise ValueError(
                    f"{name}: {row[name]!r:.80} is a list as Python or JSON writes it; expected {name} with spaces "
                    "between them, or the file as JSON Lines (data.format: jsonl)"
                )
            row[name] = [part for part in re.split(separator, row[name]) if part]
    return row | {name: row[name] or None for name in ("labels", "image") if name in row}
