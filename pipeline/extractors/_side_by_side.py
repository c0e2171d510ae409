"""Pictures read side by side, each by one thread: what OCR and served models share.

Reading one picture is left to each adapter.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from PIL import Image

from pipeline.core.records import Item

T = TypeVar("T", bound=Item)


class SideBySide(Generic[T]):
    """Reads as many pictures at once as it has threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = self._new_pool()

    def prepare(self, image: Image.Image) -> "Future[list[T]]":
        """Start reading one picture, on the extractor's own threads."""
        return self._pool.submit(self._read, image)

    def extract(self, images: Sequence[Image.Image]) -> list[list[T]]:
        """Items of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: "Sequence[Future[list[T]]]") -> list[list[T]]:
        """Items of each picture, once they are read."""
        return [reading.result() for reading in prepared]

    def close(self) -> None:
        """Drop what has not been read yet; a later call starts again."""
        pool, self._pool = self._pool, self._new_pool()
        pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, image: Image.Image) -> list[T]:
        raise NotImplementedError

    def _new_pool(self) -> ThreadPoolExecutor:
        """A pool, whose threads start when there is work for them."""
        return ThreadPoolExecutor(self._threads, thread_name_prefix="read")
