"""Extractors that crash natively, and a run of one by a process of its own, which they may take with them."""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from pipeline.core.records import Caption
from pipeline.core.store import Store
from pipeline.engine.run import extract
from tests.pipeline.engine.bench import MeanColour, reddish, rows_of


class Deadly(MeanColour):
    """Crashes natively on red pictures, in the way that is asked for; writes down its loads and batches."""

    def __init__(self, way: str, log: Path | None = None, seconds: float = 0.0) -> None:
        super().__init__(seconds=seconds)
        self.way, self.log = way, log

    def load(self) -> None:
        self.write("load")
        if self.way == "load":
            os.abort()
        if self.way == "unloadable":
            raise RuntimeError("no weights")

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        self.write(f"{len(images)}")
        if any(map(reddish, images)):
            self.die()
        return super().extract(images)

    def die(self) -> None:
        if self.way == "null":
            ctypes.string_at(0)
        elif self.way == "memory":  # as the system does it
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.way != "none":
            os.abort()

    def write(self, line: str) -> None:
        if self.log is not None:
            with self.log.open("a", encoding="ascii") as file:
                file.write(f"{os.getpid()} {line}\n")


class DeadlyPreparation(Deadly):
    """Crashes as it prepares a picture, which is where OCR reads."""

    def prepare(self, image: Image.Image) -> Image.Image:
        if reddish(image):
            self.die()
        return image

    def extract_prepared(self, prepared: Sequence[Image.Image]) -> list[list[Caption]]:
        return self.extract(prepared)


if __name__ == "__main__":
    folder, output, store, cls, way, log, seconds, batch_size = sys.argv[1:]
    extractor = globals()[cls](way, Path(log), float(seconds))
    rows = rows_of(Path(folder))
    kept = Store.open(store)
    print(extract("captions", extractor, rows, Path(folder), Path(output), kept, batch_size=int(batch_size)))
