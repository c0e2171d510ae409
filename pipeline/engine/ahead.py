"""Decoding ahead of the model: which batches are being decoded while another is read, and the threads that do it.

Which batches there are is left to :mod:`pipeline.engine.plan`, reading them to :mod:`pipeline.engine.local`.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from pipeline.engine.inputs import Shown
from pipeline.engine.plan import Job, Lacking
from pipeline.extractors.base import UnavailableError

_AHEAD = 2  # batches decoded, or being decoded, while one is with the model
_AHEAD_PIXELS = 128_000_000  # and decoding does not run further ahead than this: 0.4 GB of RGB


class Turn(NamedTuple):
    """A batch of a shard: who reads it, what it shows, and what is being decoded of it."""

    reading: "Decoding"
    shard: Lacking
    shown: Shown
    jobs: Sequence[Job]
    pictures: Sequence[Future[Any]] = ()


class Decoding(Protocol):
    """What reads batches."""

    kind: str
    gone: UnavailableError | None
    """What the extractor reads with is; then no batch is begun."""

    def decode(self, turn: Turn, pool: ThreadPoolExecutor) -> Turn:
        """Have the pictures of a batch decoded."""
        ...


def decoded_ahead(turns: Iterable[Turn], pool: ThreadPoolExecutor, kinds: int = 1) -> Iterator[Turn]:
    """The batches in turn, while the pictures of the next ones are being decoded.

    Args:
        turns: batches of which nothing is decoded yet.
        pool: threads that decode.
        kinds: whose batches there are.
    """
    ahead: deque[Turn] = deque()
    pixels = 0
    for turn in turns:
        if turn.reading.gone is not None:
            continue
        ahead.append(turn.reading.decode(turn, pool))
        pixels += sum(job.width * job.height for job in turn.jobs)
        while len(ahead) > _AHEAD * kinds or (len(ahead) > 1 and pixels > _AHEAD_PIXELS):
            pixels -= sum(job.width * job.height for job in ahead[0].jobs)
            yield ahead.popleft()
    while ahead:
        yield ahead.popleft()


@contextmanager
def threads(workers: int) -> Iterator[tuple[ThreadPoolExecutor, ThreadPoolExecutor]]:
    """Threads that decode, and one that stores; at the end what is finished is kept."""
    decoders = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    writer = ThreadPoolExecutor(1, thread_name_prefix="store")
    try:
        yield decoders, writer
    finally:
        decoders.shutdown(wait=True, cancel_futures=True)
        writer.shutdown(wait=True)
