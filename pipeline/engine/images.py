"""The manifest over shards: examined by this process, by one of several, or by workers of a cluster, to the same rows.

How a picture is examined is :mod:`pipeline.images.manifest`'s. Here is who does it, and where what is known is kept: in
the store, or as a part of each shard, which several machines share.
"""

import os
import platform
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.records import ImageRow
from pipeline.core.results import Kept, Results, of_shard, save
from pipeline.core.store import Store
from pipeline.engine.in_order import Tasks, Unit, in_order
from pipeline.engine.seen import require_unreadable
from pipeline.engine.shards import Part, cut
from pipeline.engine.task import enter, timed
from pipeline.images import manifest as images
from pipeline.images.manifest import Window
from pipeline.images.pictures import StampedPictures, of
from pipeline.images.remote import Objects
from pipeline.settings.params import ImagesParams, RayExecution


def manifest(
    names: Iterable[str],
    place: StampedPictures | None,
    limits: ImagesParams,
    results: Store | Parts,
    *,
    part: Part | None = None,
    ray: RayExecution | None = None,
) -> Iterator[ImageRow]:
    """Yield the rows of :func:`pipeline.images.manifest.manifest`, examined shard by shard.

    Args:
        names: of the pictures.
        place: where they lie; None for a data set without.
        limits: on each picture.
        results: where what is known of pictures is kept.
        part: of the shards, only those that this one of several processes examines.
        ray: the cluster whose workers examine them; None: this process does.

    Raises:
        UserError: a name cannot be written as UTF-8, there is no cluster, its workers are lost more often than `ray`
            has it or do not see the pictures that this machine does, or nothing that `part` finds could be kept.
    """
    if part is not None and isinstance(place, Objects):
        raise UserError(
            f"--part {part}: nothing tells the state of single objects behind a URL, so what is found could not be "
            "kept for the stage; name their digests in data.listing (python -m pipeline.listing), or pack them in tars"
        )
    ordered, key = images.distinct(names), images.key_of(limits)
    if place is None:
        return images.without_pictures(ordered)
    shards = (
        _Shard(shard.name, Window([row["image"] for row in shard.rows], of_shard(results, key, shard.name)))
        for shard in cut({"image": name} for name in ordered)
        if part is None or part.has(shard.number)
    )
    if ray is not None:
        order = Order(os.getcwd(), limits, results.url if isinstance(results, Parts) else None, ray.max_seconds)
        return images.counted(_on_cluster(shards, place, order, ray), len(ordered), on="a cluster")
    rows = images.examined((shard.window for shard in shards), place, limits)
    return images.counted(rows, len(ordered) if part is None else None)


class Order(NamedTuple):
    """What a worker is to know; it can be pickled, and holds no secret.

    Attributes:
        folder: the project's on every node.
        limits: on each picture.
        parts: where what is known goes, or None: it is given back.
        max_seconds: without progress, after which the worker is killed.
    """

    folder: str
    limits: ImagesParams
    parts: str | None
    max_seconds: float


class Answer(NamedTuple):
    """What a worker found: rows, what is to be kept of them, the error that was the end of it, and on which node."""

    rows: list[ImageRow]
    values: dict[str, bytes]
    error: str = ""
    node: str = ""


def examine(order: Order, shard: str, names: Sequence[str], place: StampedPictures) -> Answer:
    """Examine pictures of a shard, on a worker, which has as many decoding processes as cores are its own."""
    kept, rows, slowest = Kept(), list[ImageRow](), 2 * images.BATCH * order.limits.max_seconds
    with timed(max(order.max_seconds, slowest)) as progressed:
        try:
            enter(order.folder)
            key = images.key_of(order.limits)
            results: Results = kept if order.parts is None else Parts(order.parts).one(key, shard)
            for row in images.examined([Window(names, results)], place, order.limits):
                rows.append(row)
                progressed()
        except UserError as error:
            return Answer([], kept.values, str(error))
    return Answer(rows, kept.values, node=platform.node())


@dataclass(slots=True, eq=False)
class _Shard:
    """A shard that is under way.

    Attributes:
        known: its rows that were kept, by name; `lacking`: the other names, `seen`: those whose state this machine
            tells.
    """

    name: str
    window: Window
    known: dict[str, ImageRow] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    seen: Set[str] = frozenset()


def _on_cluster(
    shards: Iterable[_Shard], place: StampedPictures, order: Order, settings: RayExecution
) -> Iterator[ImageRow]:
    """The rows in order; a shard that lacks some is a task's."""
    key = images.key_of(order.limits)
    units = (_unit(shard, place, order, key) for shard in shards)
    for shard, answer in in_order(units, Tasks("images", examine, order.folder, settings)):
        if answer is not None:
            _keep(shard, answer, key, place)
        yield from (shard.known[name] for name in shard.window.names)


def _unit(shard: _Shard, place: StampedPictures, order: Order, key: str) -> Unit[_Shard]:
    stamps = images.stamped(shard.window.names, place)
    shard.known = images.known(shard.window, stamps, key)
    shard.lacking = [name for name in shard.window.names if name not in shard.known]
    shard.seen = stamps.keys() - shard.known.keys()
    if not shard.lacking:
        return Unit(shard, None, shard.name)
    called = f"of {len(shard.lacking):,} pictures from {shard.lacking[0]} on (what was found before is kept)"
    return Unit(shard, (order, shard.name, shard.lacking, of(place, shard.lacking)), called)


def _keep(shard: _Shard, answer: Answer, key: str, place: StampedPictures) -> None:
    """Take up what a worker found; raises UserError where that was the end of it, or its node does not see pictures."""
    results = shard.window.results
    assert results is not None
    results.put_many(key, answer.values)
    save(results)
    if answer.error:
        raise UserError(answer.error)
    for row in answer.rows:
        if row.sha256 is None and row.image in shard.seen:
            why = f"{row.status}: {row.error}"
            require_unreadable("images", row.image, why, answer.node, partial(place.read, row.image))
    shard.known |= {row.image: row for row in answer.rows}
