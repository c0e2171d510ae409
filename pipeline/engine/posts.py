"""The posts of a split's files, described: by this process, or by workers of a cluster, to the same lines.

A worker reads a piece of a file, by the readers' own code; where something is wrong with it, the file is read here, for
the message. What is asked of all posts together, such as whether an id was there before, is left to the stage, which
gets them in order. CSV, Parquet and exports of Label Studio are read here.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.core.files import Piece
from pipeline.corpus.counts import Counts
from pipeline.corpus.dataset import alike, of_files, read_of, sources
from pipeline.corpus.described import Described, describe
from pipeline.corpus.reading import Portion, Throughout
from pipeline.corpus.sources import Source
from pipeline.engine.in_order import Tasks, Unit, in_order, worthwhile
from pipeline.engine.task import timed
from pipeline.settings.params import DataParams, PostSplit, RayExecution


def posts(
    data: DataParams, split: PostSplit, odd: Counter[str], counts: Counts, ray: RayExecution | None
) -> Iterator[Described]:
    """The posts of a split in order, described, ids as they are.

    Args:
        data: where the data set lies.
        split: which.
        odd: counts what is odd.
        counts: counts the posts.
        ray: the cluster whose workers read pieces of large files; None: this process reads them.

    Raises:
        UserError: as of :func:`pipeline.corpus.dataset.of_files`; there is no cluster, or its workers are lost.
    """
    if ray is None or data.limit is not None or not worthwhile(data.files(split)):
        return describe(of_files(data, split, odd), counts)
    return alike(_on_cluster(data, split, odd, counts, ray), split)


class Read(NamedTuple):
    """What a worker has made of a piece; nothing where something is wrong with it."""

    posts: list[Described]
    counts: Counts
    odd: Counter[str]
    throughout: Throughout
    wrong: bool = False


def read(source: Source, split: PostSplit, piece: Piece, max_seconds: float) -> Read:
    """Read a piece of a file, on a worker."""
    portion, odd, counts = Portion(piece), Counter[str](), Counts()
    with timed(max_seconds):
        try:
            found = list(describe(read_of(source.posts_of(portion, odd), split, odd), counts))
        except UserError:
            return Read([], Counts(), Counter(), Throughout(), wrong=True)
    return Read(found, counts, odd, portion.throughout)


@dataclass(slots=True, eq=False)
class _File:
    """A file that is being read: how many posts it had so far, how they are, and the error that was the end of it."""

    source: Source
    posts: int = 0
    error: UserError | None = None
    throughout: Throughout = field(default_factory=Throughout)

    def named(self, found: Iterable[Described]) -> Iterator[Described]:
        """Its next posts; those without an id are called by the file and their number in it."""
        for post in found:
            self.posts += 1
            yield post if post.id else replace(post, id=f"{self.source.path.stem}-{self.posts}")

    def refuse(self) -> None:
        """Raise what is wrong with it, as its reader says it, where there is something."""
        for _ in self.source.posts(Counter()):
            pass


def _on_cluster(
    data: DataParams, split: PostSplit, odd: Counter[str], counts: Counts, ray: RayExecution
) -> Iterator[tuple[Path, Described]]:
    for file, answer in in_order(_units(data, split, ray), Tasks("posts", read, os.getcwd(), ray)):
        path = file.source.path
        if file.error is not None and answer is None:
            raise file.error
        if answer is None:
            if file.source.after is None:
                given = read_of(file.source.posts(odd), split, odd)
                yield from ((path, post) for post in describe(given, counts))
            elif file.throughout.holds:
                file.refuse()
            continue
        if answer.wrong:
            file.refuse()
            raise UserError(f"{path}: it has changed while it was read; run dvc repro posts again")
        odd.update(answer.odd)
        counts.add_all(answer.counts)
        file.throughout.add_all(answer.throughout)
        yield from ((path, post) for post in file.named(answer.posts))


def _units(data: DataParams, split: PostSplit, ray: RayExecution) -> Iterator[Unit[_File]]:
    """The pieces of files that are read in pieces, and of each file one without a task, at its end.

    Units are asked for ahead of their answers: so the error of a file is kept until those before it have been read.
    """
    for source in sources(data, split):
        file = _File(source)
        try:
            for piece in source.pieces() if source.after is not None else ():
                called = f"of {source.path} from line {piece.number:,} on"
                yield Unit(file, (source, split, piece, ray.max_seconds), called)
        except UserError as error:
            file.error = error
        yield Unit(file, None, str(source.path))
