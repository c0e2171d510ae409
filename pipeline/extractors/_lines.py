"""What OCR adapters share: pictures read side by side, and lines in reading order.

Reading one picture is left to each adapter.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from pipeline.core.machine import cores
from pipeline.core.records import TextLine
from pipeline.settings.params import ExecutionParams


class SideBySide:
    """Reads as many pictures at once as ``execution.ocr_threads`` says, each by one thread of its own."""

    def __init__(self, execution: ExecutionParams) -> None:
        self._threads = execution.ocr_threads or cores()
        self._pool = self._new_pool()

    def prepare(self, image: Image.Image) -> "Future[list[TextLine]]":
        """Start reading one picture, on the extractor's own threads."""
        return self._pool.submit(self._read, image)

    def extract(self, images: Sequence[Image.Image]) -> list[list[TextLine]]:
        """Lines of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: "Sequence[Future[list[TextLine]]]") -> list[list[TextLine]]:
        """Lines of each picture, once they are read."""
        return [reading.result() for reading in prepared]

    def close(self) -> None:
        """Drop what has not been read yet; a later call starts again."""
        pool, self._pool = self._pool, self._new_pool()
        pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, image: Image.Image) -> list[TextLine]:
        raise NotImplementedError

    def _new_pool(self) -> ThreadPoolExecutor:
        """A pool, whose threads start when there is work for them."""
        return ThreadPoolExecutor(self._threads, thread_name_prefix="ocr")


def reading_order(lines: Sequence[TextLine]) -> list[TextLine]:
    """Rows from top to bottom, each from left to right. A line is of the row whose first line's height its middle
    lies in; so it does not matter how large the picture or the writing is."""

    def span(line: TextLine) -> tuple[float, float, float]:
        polygon = line.polygon or ((0.0, 0.0),)
        ys = [y for _, y in polygon]
        return min(ys), max(ys), min(x for x, _ in polygon)

    rows: list[list[TextLine]] = []
    for line in sorted(lines, key=lambda line: (span(line)[0], span(line)[2], line.text)):
        top, bottom, _ = span(line)
        middle = (top + bottom) / 2
        for row in rows:
            first_top, first_bottom, _ = span(row[0])
            if first_top <= middle <= first_bottom and top <= (first_top + first_bottom) / 2:
                row.append(line)
                break
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: (span(line)[2], span(line)[0]))]
