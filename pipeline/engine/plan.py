"""The plan: of what can be read, the jobs that have no result yet, and jobs → batches.

The order of what is read alone decides the batches, so an interrupted run goes on with those that it would have made.
What a job is made of is left to :mod:`pipeline.engine.inputs`, reading it to :mod:`pipeline.engine.local`.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from pipeline.core.store import batched

WINDOW = 2048  # jobs looked up among the results at a time
_BATCH_PIXELS = 64_000_000  # a batch is closed early at so many pixels: large pictures make small batches


class Results(Protocol):
    """Where results go: bytes by (digest of a fingerprint, digest of an input), as :class:`pipeline.core.store.Store`.

    Called from several threads at once.
    """

    def get_many(self, fingerprint: str, keys: Sequence[str]) -> dict[str, bytes]:
        """The values that are stored, by key; raises UserError where they cannot be read."""
        ...

    def known(self, fingerprint: str, keys: Sequence[str]) -> set[str]:
        """The keys that have a value, which is not read; raises UserError as :meth:`get_many`."""
        ...

    def put_many(self, fingerprint: str, values: Mapping[str, bytes]) -> None:
        """Store `values` by key, all or none; raises UserError where they cannot be written."""
        ...


class Job(NamedTuple):
    """What is to be read: its name, the digest of what the extractor is shown in hex, its size in pixels.

    `sha256` is that of a picture's bytes, in hex: its digest, where the extractor is shown nothing else.
    """

    name: str
    key: str
    width: int
    height: int
    sha256: str = ""


def jobs(readable: Iterable[Job], results: Results, key: str, *, stored: bool) -> Iterator[Job]:
    """Of what can be read, that which has a result, or has none: of jobs with one key the first, in their order.

    Args:
        readable: all there is to read.
        results: where to look them up.
        key: digest of the extractor's fingerprint.
        stored: whether to give those with a result or those without.
    """
    seen: set[bytes] = set()
    for window in batched(readable, WINDOW):
        found = results.known(key, [job.key for job in window])
        for job in window:
            if (job.key in found) == stored and (raw := bytes.fromhex(job.key)) not in seen:
                seen.add(raw)
                yield job


def any_size(_width: int, _height: int) -> Hashable:
    """The one bucket of an extractor that does not sort pictures."""
    return None


def batches(jobs: Iterable[Job], size: int, bucket: Callable[[int, int], Hashable]) -> Iterator[list[Job]]:
    """Batches of at most `size`, of one bucket each.

    Which pictures stand together depends on the order alone, and whole batches are stored: so a run that was killed
    goes on with the batches it would have made, and ends with the very same numbers.

    Args:
        jobs: in the manifest's order.
        size: pictures per batch, at most; fewer where they are large.
        bucket: takes width and height in pixels; pictures with the same value go into batches together.
    """
    waiting: dict[Hashable, list[Job]] = {}
    pixels: dict[Hashable, int] = {}
    for job in jobs:
        key = bucket(job.width, job.height)
        waiting.setdefault(key, []).append(job)
        pixels[key] = pixels.get(key, 0) + job.width * job.height
        if len(waiting[key]) >= size or pixels[key] >= _BATCH_PIXELS:
            del pixels[key]
            yield waiting.pop(key)
    yield from waiting.values()
