"""Where a manifest is cut into shards, in memory that stays flat.

Batches end where shards do, and a shard is what one worker reads at a time. So every engine cuts at the same places,
which names alone decide: ten new pictures among a million change the shards that they fall into, and no others.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.core.kinds import Row

MEAN, LEAST, MOST = 2048, 512, 4096
"""Rows of a shard. No knob: where a shard ends decides which pictures stand in a batch together."""

_FIRST = "first"


class Shard(NamedTuple):
    """Rows that follow each other; `name` is made of the first one's, and stays while that does.

    `number` is the shard's, from 0, and `first` that of its first row among all.
    """

    name: str
    rows: list[Row]
    number: int
    first: int


class Part(NamedTuple):
    """Of `of` processes that share out the shards, process `number`, from 0."""

    number: int
    of: int

    def has(self, shard: int) -> bool:
        """Whether a shard, by its number in the manifest, is for this process."""
        return shard % self.of == self.number

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def cut(rows: Iterable[Row]) -> Iterator[Shard]:
    """Cut rows into shards of :data:`MEAN` in the mean: before one whose name's hash says so.

    Args:
        rows: sorted; each has an `image`, or an `id` and a `split`.
    """
    name, shard, number, first = _FIRST, list[Row](), 0, 0
    for row in rows:
        if len(shard) >= LEAST:
            head = _head(row)
            if int.from_bytes(head[:8], "big") % max(1, MEAN - LEAST) == 0 or len(shard) >= MOST:
                yield Shard(name, shard, number, first)
                number, first = number + 1, first + len(shard)
                name, shard = head.hex(), []
        shard.append(row)
    if shard:
        yield Shard(name, shard, number, first)


def _head(row: Row) -> bytes:
    name = row["image"] if "image" in row else f"{row['id']}\0{row['split']}"
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
