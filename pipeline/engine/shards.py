"""Where a manifest is cut into shards, and which digests occur in it more than once; both in memory that stays flat.

Batches end where shards do, and a shard is what one worker reads at a time. So every engine cuts at the same places,
which names alone decide: ten new pictures among a million change the shards that they fall into, and no others.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pipeline.core.kinds import Row

MEAN, LEAST, MOST = 2048, 512, 4096
"""Rows of a shard. No knob: where a shard ends decides which pictures stand in a batch together."""

_FIRST = "first"


class Shard(NamedTuple):
    """Rows that follow each other; `name` is made of the first one's, and stays while that does."""

    name: str
    rows: list[Row]


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
    name, shard = _FIRST, list[Row]()
    for row in rows:
        if len(shard) >= LEAST:
            head = _head(row)
            if int.from_bytes(head[:8], "big") % max(1, MEAN - LEAST) == 0 or len(shard) >= MOST:
                yield Shard(name, shard)
                name, shard = head.hex(), []
        shard.append(row)
    if shard:
        yield Shard(name, shard)


def repeated(digests: Callable[[], Iterator[str]]) -> set[str]:
    """The digests that occur more than once; memory is 8 bytes for each, and what is found.

    Args:
        digests: gives all of them, in hex, at every call.
    """
    import numpy as np

    heads = np.frombuffer(array("Q", map(_number, digests())), np.uint64)
    heads.sort()
    twice = set(heads[1:][heads[1:] == heads[:-1]].tolist())
    if not twice:
        return set()
    once: set[str] = set()
    found: set[str] = set()
    for digest in digests():
        if _number(digest) in twice:
            (found if digest in once else once).add(digest)
    return found


def _head(row: Row) -> bytes:
    name = row["image"] if "image" in row else f"{row['id']}\0{row['split']}"
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _number(digest: str) -> int:
    return int(digest[:16], 16)
