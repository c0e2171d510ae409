"""What the tests of the engine share: pictures, an extractor whose results only pixels decide, a bench to run it on."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.records import Caption, ImageRow
from pipeline.core.store import Store
from pipeline.engine.run import Summary, extract
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams


class MeanColour:
    """Captions a picture with its mean colour: a result that only its pixels decide."""

    SOURCE_MATTERS = False  # its subclasses in other files find what it has stored

    def __init__(self, version: int = 1, seconds: float = 0.0) -> None:
        self.version, self.seconds = version, seconds
        self.seen: list[int] = []  # sizes of the batches

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "mean colour", "version": self.version}

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        self.seen.append(len(images))
        time.sleep(self.seconds)
        return [[Caption(f"version {self.version}: {colour(image)}", 0.5)] for image in images]


def colour(image: Image.Image) -> list[float]:
    return [round(float(value), 2) for value in np.asarray(image).mean((0, 1))]


def reddish(image: Image.Image) -> bool:
    return colour(image)[0] > 250


def make_pictures(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Noise, no two alike; names sort as they are numbered."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = []
    for number in range(count):
        pixels = rng.integers(0, 240, (int(rng.integers(8, 40)), int(rng.integers(8, 40)), 3), dtype=np.uint8)
        names.append(f"{seed}_{number:04}.png")
        Image.fromarray(pixels).save(folder / names[-1])
    return names


def rows_of(folder: Path, names: Sequence[str] | None = None) -> list[ImageRow]:
    return list(manifest(names or [path.name for path in folder.iterdir()], folder, ImagesParams()))


class Bench:
    """A folder of pictures, a store and an output, to run the engine on."""

    def __init__(self, place: Path, count: int = 20) -> None:
        self.folder, self.output = place / "images", place / "out" / "captions.jsonl"
        make_pictures(self.folder, count)
        self.store = Store.open(place / "store")

    def run(self, extractor: Any, **options: Any) -> Summary:
        return extract(
            "captions",
            extractor,
            rows_of(self.folder),
            self.folder,
            self.output,
            self.store,
            **{"batch_size": 4, **options},
        )

    def rows(self) -> dict[str, dict[str, Any]]:
        rows = [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]
        assert [row["image"] for row in rows] == sorted({path.name for path in self.folder.iterdir()})
        return {row["image"]: row for row in rows}


def figures(summary: Summary) -> tuple[int, int, int]:
    return summary.read, summary.from_store, summary.failed
