"""What the tests of one pass share: extractors of several kinds that tell their batches, and passes that read them.

Run as a program, it reads in one pass and is killed by its own extractor on a red picture.
"""

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.core.records import Caption, ImageRow, ObjectTag, TextLine
from pipeline.core.results import PartedResults, Results
from pipeline.core.store import Store
from pipeline.engine import shards
from pipeline.engine.along import Along
from pipeline.engine.inputs import PictureInputs
from pipeline.engine.one_pass import OnePass
from pipeline.engine.outcome import Outcome
from pipeline.engine.run import Engine, Local, Summary, run, run_part
from pipeline.engine.shards import Part
from pipeline.images.pictures import Folder
from pipeline.settings.params import ImagesParams
from tests.pipeline.engine.bench import colour, reddish, rows_of

SIZES = {"objects": 4, "captions": 7, "ocr": 3}
"""Pictures per batch, at most."""
SHARDS = {"MEAN": 20, "LEAST": 6, "MOST": 30}
"""Rows of a shard."""


class Batched:
    """Says of a picture its mean colour, its place in the batch and the size of that: what only equal batches give."""

    SOURCE_MATTERS = False

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.seen: list[int] = []  # sizes of the batches

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "batched", "kind": self.kind, "version": 1}

    def extract(self, images: Sequence[Image.Image]) -> list[list[Any]]:
        self.seen.append(len(images))
        item = {"objects": ObjectTag, "captions": Caption, "ocr": TextLine}[self.kind]
        return [[item(f"{colour(image)}, {place} of {len(images)}")] for place, image in enumerate(images)]


class Bucketed(Batched):
    """Wants pictures of like width together."""

    def bucket(self, width: int, _height: int) -> int:
        return width // 10


class Drawing(Batched):
    """Draws on the pictures that it is shown."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Any]]:
        found = super().extract(images)
        for image in images:
            image.paste((255, 255, 255), (0, 0, *image.size))
        return found


class Fussy(Batched):
    """Fails on red pictures."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Any]]:
        if any(map(reddish, images)):
            raise ValueError("red")
        return super().extract(images)


class Deadly(Batched):
    """Dies with its process of red pictures."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Any]]:
        if any(map(reddish, images)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().extract(images)


class Slow(Batched):
    """Takes its time for each batch."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Any]]:
        time.sleep(0.8)
        return super().extract(images)


class Elsewhere(Batched):
    """Is another extractor where the environment says so."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {**super().fingerprint(), "host": os.environ.get("ONLY_OF_THE_DRIVER")}


class Broken(Batched):
    """Breaks its contract from its third batch on."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Any]]:
        return super().extract(images) if len(self.seen) < 2 else []


class Counted(Folder):
    """A folder that counts how often each picture is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ImagesParams())
        self.reads: Counter[str] = Counter()

    def read(self, name: str) -> bytes:
        data = super().read(name)
        self.reads[name] += 1
        return data


class Noted(Folder):
    """A folder that notes in a file which pictures are read, by whatever process."""

    def __init__(self, folder: Path, log: Path) -> None:
        super().__init__(folder, ImagesParams())
        self.log = log

    def read(self, name: str) -> bytes:
        data = super().read(name)
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{name}\n")
        return data

    @property
    def reads(self) -> Counter[str]:
        return Counter(self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else [])


class Passes:
    """A folder of pictures, read by several kinds in one pass or by each apart, with results in one place.

    Attributes:
        extractors: by kind.
        pictures: of the passes so far, with their reads.
    """

    def __init__(
        self, folder: Path, output: Path, results: Results | PartedResults, extractors: Mapping[str, Any]
    ) -> None:
        self.folder, self.output, self.results, self.extractors = folder, output, results, extractors
        self.pictures: Counted | Noted = Counted(folder)
        self.manifest: list[ImageRow] = rows_of(folder)

    def read(self, own: str, part: Part | None = None, *, along: bool = True) -> Summary | Outcome:
        """Read one kind, as a stage or a part of it does, with the others along or by itself."""
        inputs = self.inputs()
        others = [kind for kind in self.extractors if along and kind != own]
        engine = self.engine(own, {kind: partial(self.along, kind) for kind in others})
        extractor = self.extractors[own]
        if part is not None:
            return run_part(own, extractor, inputs, self.results, part, engine=engine)
        return run(own, extractor, inputs, self.output / f"{own}.jsonl", self.results, engine=engine)

    def rows(self) -> dict[str, bytes]:
        """The files of rows so far, by kind."""
        return {path.stem: path.read_bytes() for path in self.output.glob("*.jsonl")}

    def inputs(self) -> PictureInputs:
        return PictureInputs(self.manifest, self.pictures, ImagesParams())

    def engine(self, own: str, along: Mapping[str, Callable[[], Along | None]]) -> Engine:
        """What reads a kind, with others along."""
        return OnePass(SIZES[own], 2, along) if along else Local(SIZES[own], 2)

    def along(self, kind: str) -> Along | None:
        """A kind that others have along."""
        return Along(kind, self.extractors[kind], self.inputs(), SIZES[kind])


def batched(**others: Callable[[str], Any]) -> dict[str, Any]:
    """An extractor of each kind; of some, another class."""
    return {kind: others.get(kind, Bucketed if kind == "objects" else Batched)(kind) for kind in SIZES}


if __name__ == "__main__":
    folder, output, store = map(Path, sys.argv[1:])
    for name, size in SHARDS.items():
        setattr(shards, name, size)
    Passes(folder, output, Store.open(store), batched(captions=Deadly)).read("captions")
