"""Captioners with a fault, for the stage command: `captions.extractor: faulty:…`, copied beside a project's stages.

Every one captions a picture with its mean colour, a result that only its pixels decide, and does so at a pace that a
test can interrupt. Which fault it has, and when, are its options.
"""

import ctypes
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.records import Caption


class MeanColour:
    """Captions of `words` words; `log` gets a line for every picture read."""

    def __init__(self, seconds: float = 0.0, words: int = 1, log: str | None = None) -> None:
        self.seconds, self.words, self.log = seconds, words, log
        self.batches = 0

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "mean colour", "words": self.words}

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        self.batches += 1
        time.sleep(self.seconds)
        if self.log:
            with Path(self.log).open("a", encoding="utf-8") as file:
                file.write("read\n" * len(images))
        return [[Caption(" ".join([colour(image)] * self.words), 0.5)] for image in images]


def colour(image: Image.Image) -> str:
    return "-".join(f"{value:.2f}" for value in np.asarray(image).mean((0, 1)))


class Raising(MeanColour):
    """Raises on one batch and at every further try of its pictures: on those of even red, say."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        if any(image.getpixel((0, 0)) == (255, 0, 0) for image in images):
            raise RuntimeError("a kernel failed")
        return super().extract(images)


class Crashing(MeanColour):
    """Ends its process as a library does that reads where it must not, on pictures whose first pixel is red."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        if any(image.getpixel((0, 0)) == (255, 0, 0) for image in images):
            ctypes.string_at(0)
        return super().extract(images)


class NthBatch(MeanColour):
    """Raises on the n-th batch, once."""

    def __init__(self, nth: int, **options: Any) -> None:
        super().__init__(**options)
        self.nth = nth

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        found = super().extract(images)
        if self.batches == self.nth:
            raise RuntimeError(f"batch {self.nth} failed")
        return found


class NotANumber(MeanColour):
    """Gives NaN as the score of pictures whose first pixel is red."""

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        return [
            [Caption(caption.text, float("nan"))] if image.getpixel((0, 0)) == (255, 0, 0) else [caption]
            for image, [caption] in zip(images, super().extract(images), strict=True)
        ]


class Hungry(MeanColour):
    """Runs out of memory on more than `fits` pictures."""

    def __init__(self, fits: int, really: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.fits, self.really = fits, really

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        if len(images) > self.fits:
            if self.really:
                np.ones(1 << 50)  # a petabyte: numpy's own MemoryError
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return super().extract(images)


class Broken(MeanColour):
    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        raise RuntimeError("broken for good")
