"""Small copies of the pictures, beside the page, under names that no stranger chose.

A thumbnail is kept in the store by its picture's hash, so that a report made again decodes nothing. Reading pictures
safely is left to :mod:`pipeline.images.pictures`.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.progress import Progress
from pipeline.core.records import ImageRow
from pipeline.core.store import Store, batched, digest
from pipeline.images import pictures
from pipeline.images.decoding import PictureError
from pipeline.settings.params import ImagesParams

VERSION = 2
"""Raised when the same picture would give another thumbnail."""

_QUALITY = 72
_WINDOW = 256  # pictures decoded, and stored, at a time


def write(
    rows: Iterable[ImageRow],
    place: pictures.Pictures | None,
    output: Path,
    side: int,
    limits: ImagesParams,
    store: Store,
    workers: int = 2,
) -> dict[str, str]:
    """Write a thumbnail of each picture of the manifest's rows that can be read.

    Args:
        rows: of the manifest.
        place: where the pictures lie; None for a data set without.
        output: the thumbnails' folder; others that lie there are removed.
        side: pixels of the longer side; a smaller picture stays as it is.
        limits: on the pictures, as in the manifest.
        store: keeps them between runs.
        workers: threads that decode.

    Returns:
        Thumbnail's file name by picture name; a picture that has changed or gone since the manifest has none.

    Raises:
        UserError: the disk is full, or the folder may not be written.
    """
    key = digest({"thumbnail": VERSION, "side": side, "quality": _QUALITY})
    readable = [row for row in rows if row.status == "ok"]
    written: dict[str, str] = {}
    output.mkdir(parents=True, exist_ok=True)

    def make(row: ImageRow) -> bytes | None:
        if place is None:
            return None
        try:
            return thumbnail(pictures.load(place, row.image, str(row.sha256), limits), side)
        except PictureError:
            return None  # it was readable when the manifest was made: shown as a picture that is not there

    with (
        ThreadPoolExecutor(workers, thread_name_prefix="thumbnails") as pool,
        Progress("thumbnails", "picture", len(readable)) as progress,
    ):
        for window in batched(readable, _WINDOW):
            found = store.get_many(key, [str(row.sha256) for row in window])
            lacking = list({str(row.sha256): row for row in window if str(row.sha256) not in found}.values())
            made = {str(row.sha256): data for row, data in zip(lacking, pool.map(make, lacking), strict=True) if data}
            store.put_many(key, made)
            found |= made
            for row in window:
                if str(row.sha256) in found:
                    name = f"{str(row.sha256)[:20]}.webp"
                    _write(output / name, found[str(row.sha256)])
                    written[row.image] = name
            progress.update(len(window))
    for stale in set(output.glob("*.webp")) - {output / name for name in written.values()}:
        stale.unlink()
    return written


def _write(path: Path, data: bytes) -> None:
    """Not by atomic_write, which waits for the disk each time: the page is written last, and there is none without."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror}; see that there is room and that the folder may "
            "be written, and run again"
        ) from None


def thumbnail(picture: Image.Image, side: int) -> bytes:
    """A picture as WebP, its longer side at most `side` pixels."""
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = BytesIO()
    picture.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return buffer.getvalue()
