"""Pictures or posts read side by side, each by one thread: what OCR and served models share.

Reading one is left to each adapter.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from pipeline.core.records import Item

S = TypeVar("S")
T = TypeVar("T", bound=Item)


class SideBySide(Generic[S, T]):
    """Reads as many at once as it has threads: `S` is what it is shown (a picture, a post), `T` an item."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = self._new_pool()

    def prepare(self, shown: S) -> "Future[list[T]]":
        """Start reading one, on the extractor's own threads."""
        return self._pool.submit(self._read, shown)

    def extract(self, shown: Sequence[S]) -> list[list[T]]:
        """Items of each."""
        return self.extract_prepared([self.prepare(one) for one in shown])

    def extract_prepared(self, prepared: "Sequence[Future[list[T]]]") -> list[list[T]]:
        """Items of each, once they are read."""
        return [reading.result() for reading in prepared]

    def close(self) -> None:
        """Drop what has not been read yet; a later call starts again."""
        pool, self._pool = self._pool, self._new_pool()
        pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, shown: S) -> list[T]:
        raise NotImplementedError

    def _new_pool(self) -> ThreadPoolExecutor:
        """A pool, whose threads start when there is work for them."""
        return ThreadPoolExecutor(self._threads, thread_name_prefix="read")
