"""Parquet files as the `datasets` library of Hugging Face has them: tokens, tags as numbers with names, pictures.

No code of a data set is run: the names of tags are read from what the library writes into the file. A post's pictures
are names, or are in the file itself, from where `python -m stages.unpack` puts them into a folder under the names
that posts have here. The package pyarrow is an extra (requirements-datasets.lock).
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.labels import Scheme
from pipeline.core.records import Post
from pipeline.corpus.reading import AS_THEY_ARE, Labels, Problems, final, from_row, listed

TAGS = ("ner_tags", "tags", "labels")
"""What the column of labels may be called, the first that there is."""
PICTURES = ("images", "image")
_BATCH = 1000  # rows
_LONGEST = 200  # bytes of a picture's name: 255 are a file's, and a temporary one's is longer


def each(
    path: str | Path,
    *,
    scheme: Scheme = "iob2",
    image_name: str | None = "{id}.jpg",
    types: Mapping[str, str] = AS_THEY_ARE,
    odd: Counter[str] | None = None,
) -> Iterator[Post]:
    """Read posts from a Parquet file: `tokens`, perhaps `id`, `ner_tags` and `images` or `image`, no other columns.

    Tags are texts, or numbers whose names the file has (ClassLabel). A post without an id is called by the file and its
    number. Without a column of pictures, `image_name` says how the id names one.

    Args:
        path: the file.
        scheme: what the tags are written in; they become IOB2.
        image_name: how an id names its picture, or None for no picture.
        types: new names of entity types; types it does not name stay.
        odd: counts what is odd, by the names of :data:`pipeline.corpus.report.ODD`.

    Raises:
        UserError: pyarrow is not installed, the file is missing or no Parquet, columns are missing or rows malformed.
    """
    path, known = Path(path), Labels(scheme, types)
    odd = Counter() if odd is None else odd
    problems = Problems(path)

    def posts() -> Iterator[Post]:
        for number, row in enumerate(rows(path), start=1):
            try:
                post = from_row(row, known, image_name, odd)
            except ValueError as error:
                problems.add(f"{path}: row {number}: {error}")
            else:
                yield post

    return final(posts(), problems, known, odd)


read = listed(each)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file as those of JSON Lines, a row at a time; pictures that are in the file by their names.

    Raises:
        UserError: as :func:`read`.
    """
    for row, _ in pictured_rows(path):
        yield row


def pictured_rows(path: Path) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """:func:`rows`, each with the pictures that the file has of it, by name."""
    file = opened(path)
    columns = file.schema_arrow.names
    if "tokens" not in columns:
        raise UserError(
            f"{path}: expected a column tokens and perhaps id, ner_tags and images; found {', '.join(columns)}"
        )
    tags = next((name for name in TAGS if name in columns), None)
    pictures = next((name for name in PICTURES if name in columns), None)
    names = _tag_names(path, file, tags)
    wanted = [name for name in ("id", "tokens", tags, pictures) if name in columns]
    for number, values in enumerate(_values(path, file, wanted), start=1):
        row: dict[str, Any] = {"id": values.get("id"), "tokens": values["tokens"]}
        if row["id"] in (None, ""):
            row["id"] = f"{path.stem}-{number}"
        if tags is not None:
            row["labels"] = _named(path, number, values[tags], names)
        inside: dict[str, bytes] = {}
        if pictures is not None:
            found = values[pictures]
            found = [] if found is None else found if isinstance(found, list) else [found]
            row["images"] = [
                _picture(each, f"{path.stem}-{number}-{place}", inside) for place, each in enumerate(found, start=1)
            ]
        yield row, inside


def _values(path: Path, file: Any, columns: Sequence[str | None]) -> Iterator[dict[str, Any]]:
    """The rows of a file; raises UserError where it is damaged, which is found where its pages are read."""
    from pyarrow import ArrowException

    batches = file.iter_batches(batch_size=_BATCH, columns=columns)
    while True:
        try:
            values = next(batches).to_pylist()
        except StopIteration:
            return
        except (ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: this file is damaged ({reason}); copy or download it again") from None
        yield from values


def opened(path: Path) -> Any:
    """A Parquet file.

    Raises:
        UserError: pyarrow is not installed, or there is no such file.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise UserError(
            "data.format: datasets needs the package pyarrow, which is an extra: pip install --no-deps -r "
            "requirements-datasets.lock"
        ) from None
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise UserError(f"{path}: no Parquet file: {error}") from None


def _tag_names(path: Path, file: Any, column: str | None) -> list[str] | None:
    """The names of tags that are numbers; None where they are texts or the file does not say."""
    told = (file.schema_arrow.metadata or {}).get(b"huggingface")
    if column is None or told is None:
        return None
    try:
        feature = json.loads(told)["info"]["features"][column]
        inner = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        names = inner.get("names")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: what it says of its column {column} (metadata `huggingface`) cannot be read"
        ) from None
    if names is not None and not isinstance(names, list):
        raise UserError(f"{path}: column {column}: expected a list of tags' names, found {names!r:.80}")
    return None if names is None else [str(name) for name in names]


def _named(path: Path, number: int, tags: Any, names: list[str] | None) -> list[str] | None:
    if not isinstance(tags, list) or not any(isinstance(tag, int) for tag in tags):
        return tags  # what is no list is refused with the row
    if names is None:
        raise UserError(
            f"{path}: row {number}: its tags are numbers, and the file does not name them (no ClassLabel); write it "
            "with the `datasets` library, or tags as texts"
        )
    if set(tags) == {-1}:  # as the library writes what is not known
        return None
    wrong = [tag for tag in tags if tag is None or not 0 <= tag < len(names)]
    if wrong:
        raise UserError(f"{path}: row {number}: the tag {wrong[0]} is none of the {len(names)} that the file names")
    return [names[tag] for tag in tags]


def _picture(value: Any, otherwise: str, inside: dict[str, bytes]) -> Any:
    """The name of a picture; its bytes go to `inside` where the file has them."""
    if not isinstance(value, dict):
        return value
    content, place = value.get("bytes"), value.get("path")
    name = PurePosixPath(place).name if isinstance(place, str) else ""
    # none that could lead out of the folder, that a tool takes for its own, or that no file system has
    if not name or name.startswith(".") or not name.isprintable() or len(name.encode()) > _LONGEST:
        name = otherwise
    if isinstance(content, bytes):
        if inside.get(name, content) != content:  # another picture of the post is called so
            name = otherwise
        inside[name] = content
        return name
    return place or name
