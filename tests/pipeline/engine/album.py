"""Pictures as they come, sound and broken, in a folder that writes down what is read of it, by whichever process."""

import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.records import ImageRow
from pipeline.core.store import Store
from pipeline.engine import images
from pipeline.engine.shards import Part
from pipeline.images.decoding import PictureError
from pipeline.images.pictures import Folder
from pipeline.settings.params import ImagesParams, RayExecution
from tests.pipeline.engine.bench import make_pictures
from tests.pipeline.images.made import encoded, two_halves

LIMITS = ImagesParams(max_pixels=5000)
SOUND = 56
BROKEN = {
    "0_0003.cut.jpg": encoded(two_halves(60, 60), "JPEG")[:-200],
    "0_0010.text.jpg": b"<svg/>",
    "0_0020.none.jpg": b"",
    "0_0030.large.png": encoded(two_halves(100, 100), "PNG"),
}
MISSING = ("0_0005.gone.jpg", "0_0040.gone.jpg", "../0_0006.jpg")
"""What no file stands for, so that nothing is known of it."""


class Album(Folder):
    """A folder of pictures.

    Args:
        folder: where they lie.
        log: a file that each read adds a line to.
        deadly: a name whose reader is killed, the first `deaths` times.
        broken: a name that the network fails at.
        seconds: that a read takes.
        sighted: the one process that finds pictures there, as where other machines have no such folder; None: all.
    """

    def __init__(
        self,
        folder: Path,
        log: Path,
        *,
        deadly: str = "",
        deaths: int = 0,
        broken: str = "",
        seconds: float = 0.0,
        sighted: int | None = None,
    ) -> None:
        super().__init__(folder, LIMITS)
        self.sighted = sighted
        self.log, self.deadly, self.deaths, self.broken, self.seconds = log, deadly, deaths, broken, seconds

    def read(self, name: str) -> bytes:
        """As of a folder, and written down."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {name}\n")
        time.sleep(self.seconds)
        if name == self.deadly and self.read_names().count(name) <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == self.broken:
            raise UserError(f"{name}: the network is down")
        if self.sighted not in (None, os.getpid()):
            raise PictureError("missing", "No such file or directory")
        return super().read(name)

    def _lines(self) -> Iterator[Sequence[str]]:
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return (line.split(" ", 1) for line in lines)

    def read_names(self) -> list[str]:
        """What was read, as often as it was."""
        return [name for _, name in self._lines()]

    def readers(self) -> set[str]:
        """The processes that have read."""
        return {process for process, _ in self._lines()}


def make(folder: Path) -> list[str]:
    """Make pictures; return the names that a data set has of them, some twice."""
    names = make_pictures(folder, SOUND)
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    settle(*folder.iterdir())
    return [*names, *BROKEN, *MISSING, names[7]]


def settle(*paths: Path) -> None:
    """Make files older than a tick of the clock."""
    for path in paths:
        os.utime(path, (1e9, 1e9))


def rows(names: Sequence[str], place: Album, results: Any, part: Part | None = None, **of_ray: Any) -> bytes:
    """The file of the rows; `of_ray` is the section `execution.ray`, where a cluster is to make them."""
    ray = RayExecution.model_validate(of_ray) if of_ray else None
    found = images.manifest(names, place, LIMITS, results, part=part, ray=ray)
    return written(found)


def written(found: Iterable[ImageRow]) -> bytes:
    """The file of the rows."""
    return "".join(dumps(asdict(row)) + "\n" for row in found).encode()


def expected(names: Sequence[str], place: Album, folder: Path) -> bytes:
    """The rows of the local engine, from a store of their own; what was read is forgotten."""
    with Store.open(folder) as store:
        found = rows(names, place, store)
    place.log.unlink()
    return found
