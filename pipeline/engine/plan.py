"""The plan: of what can be read, the jobs that have no result yet, shard by shard, and jobs → batches.

The order of what is read alone decides the batches, so an interrupted run goes on with those that it would have made.
What a job is made of is left to :mod:`pipeline.engine.inputs`, reading it to an engine, :mod:`pipeline.engine.local`.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple, Protocol

from pipeline.core.kinds import Row
from pipeline.core.results import PartedResults, Results, of_shard
from pipeline.engine.repeated import Repeated
from pipeline.engine.shards import Part, Shard, cut

_BATCH_PIXELS = 64_000_000  # a batch is closed early at so many pixels: large pictures make small batches


class Job(NamedTuple):
    """What is to be read: its name, the digest of what the extractor is shown in hex, its size in pixels.

    `sha256` is that of a picture's bytes, in hex: its digest, where the extractor is shown nothing else.
    """

    name: str
    key: str
    width: int
    height: int
    sha256: str = ""


class Lacking(NamedTuple):
    """A shard that lacks results: its name, where they go, the jobs to read, its number in the manifest."""

    shard: str
    results: Results
    jobs: list[Job]
    number: int = 0


class Planned(Protocol):
    """What a plan is made of."""

    def rows(self) -> Iterator[Row]:
        """All rows in order, from the first one at every call; raises UserError where one is malformed."""
        ...

    def job(self, row: Row) -> Job:
        """What there is to read in a row that is ok; its key is a digest of all that the extractor is shown."""
        ...


def lacking(
    inputs: Planned,
    results: Results | PartedResults,
    fingerprint: str,
    *,
    start: int = 0,
    repeated: Repeated | None = None,
    part: Part | None = None,
) -> Iterator[Lacking]:
    """The shards that lack results, from shard number `start` on.

    Of jobs with one key the first has it: within a shard, and among all of them where results do not lie apart.

    Args:
        inputs: all there is to read.
        results: where to look them up.
        fingerprint: digest of the extractor's fingerprint.
        start: number of the first shard to look at.
        repeated: the keys that several jobs have, where results do not lie apart.
        part: of the shards, only those that this one of several processes reads.
    """
    for shard in cut(inputs.rows()):
        if shard.number >= start:
            own = _own(inputs, shard, repeated)
            if part is None or part.has(shard.number):
                place = of_shard(results, fingerprint, shard.name)
                known = place.known(fingerprint, list(own)) if own else set()
                if len(known) < len(own):
                    yield Lacking(
                        shard.name, place, [job for key, job in own.items() if key not in known], shard.number
                    )
            del own
        del shard  # before the next one is read


def _own(inputs: Planned, shard: Shard, repeated: Repeated | None) -> dict[str, Job]:
    """The jobs of a shard whose keys none has before it, by key."""
    own: dict[str, Job] = {}
    for job in (inputs.job(row) for row in shard.rows if row["status"] == "ok"):
        own.setdefault(job.key, job)
    for key, number in ({} if repeated is None else repeated.first(own)).items():
        if number < shard.first:
            del own[key]
    return own


def stored(
    inputs: Planned, results: Results | PartedResults, fingerprint: str, *, first: int | None = None
) -> Iterator[Job]:
    """The jobs that have a result, of the `first` shards or of all; other arguments as of :func:`lacking`."""
    for shard in islice(cut(inputs.rows()), first):
        jobs = [inputs.job(row) for row in shard.rows if row["status"] == "ok"]
        known = of_shard(results, fingerprint, shard.name).known(fingerprint, [job.key for job in jobs])
        del shard  # before the next one is read
        yield from (job for job in jobs if job.key in known)


def any_size(_width: int, _height: int) -> Hashable:
    """The one bucket of an extractor that does not sort pictures."""
    return None


def batches(jobs: Iterable[Job], size: int, bucket: Callable[[int, int], Hashable]) -> Iterator[list[Job]]:
    """Batches of at most `size`, of one bucket each.

    Which pictures stand together depends on the order alone, and whole batches are stored: so a run that was killed
    goes on with the batches it would have made, and ends with the very same numbers.

    Args:
        jobs: of one shard, in the manifest's order.
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
