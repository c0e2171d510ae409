"""The views of a split, made by this process, or shard by shard by workers of a cluster, to the same lines.

A shard is some thousand posts that follow each other. A worker looks up their contexts in the files themselves, as this
process does; so every node is to see these.
"""

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pipeline.contexts.found import FoundWords, file_of
from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.files import Piece, pieces
from pipeline.core.records import Post
from pipeline.engine.in_order import Tasks, Unit, in_order, worthwhile
from pipeline.engine.task import enter, timed
from pipeline.settings.params import RayExecution, ViewsParams

_END = 1 << 16  # bytes at either end of a file that tell it from another


class Made(NamedTuple):
    """Views of a shard: their lines, and how many have a context; the error that was the end of it."""

    lines: list[str]
    with_context: int
    error: str = ""


def views(posts: Path, split: str, found: FoundWords, ray: RayExecution | None) -> Iterator[Made]:
    """Yield the views of a split in order, shard by shard.

    Args:
        posts: the file of its posts.
        split: which.
        found: the contexts.
        ray: the cluster whose workers make those of large files; None: this process makes them.

    Raises:
        UserError: a file is missing or malformed; there is no cluster, its workers are lost, or see other files.
    """
    given = pieces(posts, stage="posts")
    if ray is None or not worthwhile([posts]):
        yield from (_made(posts, piece, split, found) for piece in given)
        return
    told = {str(path): _told(path) for path in (file_of(found.folder, kind) for kind in found.template.kinds)}
    order = Order(os.getcwd(), posts, split, found.folder, found.template, told, ray.max_seconds)
    units = (Unit(None, (order, piece), f"of {posts} from line {piece.number:,} on") for piece in given)
    for _, made in in_order(units, Tasks("views", make, order.folder, ray)):
        if made.error:
            raise UserError(made.error)
        yield made


class Order(NamedTuple):
    """What a worker is to know; it can be pickled, and holds no secret.

    Attributes:
        folder: the project's on every node.
        posts, split: as of :func:`views`.
        contexts, template: as of :class:`pipeline.contexts.found.FoundWords`.
        told: of each file of contexts what tells it from another.
        max_seconds: after which the worker is killed.
    """

    folder: str
    posts: Path
    split: str
    contexts: Path
    template: ViewsParams
    told: Mapping[str, str]
    max_seconds: float


def make(order: Order, piece: Piece) -> Made:
    """Make the views of a shard, on a worker."""
    with timed(order.max_seconds):
        try:
            enter(order.folder)
            for path, told in order.told.items():
                if not told or _told(Path(path)) != told:
                    raise UserError(
                        f"views: node {platform.node()} does not see the {path} that this machine sees; have data/ on "
                        "a file system that all nodes share, or run this stage with execution.engine: local"
                    )
            return _made(order.posts, piece, order.split, FoundWords(order.contexts, order.template, known=True))
        except UserError as error:
            return Made([], 0, str(error))


def _made(posts: Path, piece: Piece, split: str, found: FoundWords) -> Made:
    given = list(records.parsed(piece.lines(str(posts)), Post, posts, "posts"))
    made = found.views(given, split)
    return Made(list(map(records.line, made)), sum(bool(view.context) for view in made))


def _told(path: Path) -> str:
    """What tells a file from another: its size, and what is at its ends; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            found = hashlib.blake2b(str(size).encode())
            for place in (0, max(0, size - _END)):
                file.seek(place)
                found.update(file.read(_END))
    except OSError:
        return ""
    return found.hexdigest()
