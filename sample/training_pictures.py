"""Pictures to train and measure the sample checkpoints on: rendered, compressed and resized as the pipeline sees them.

The pictures come from seeds that the data set does not use (`render.TRAINING_SPACE`, `render.HELD_OUT_SPACE`).
train_captioner.py and train_detector.py learn from them.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from sample import render

MAX_THINGS = 4


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as read back from its JPEG file, and the truth about it; boxes are (x0, y0, x1, y1) in pixels."""

    image: Image.Image
    spec: render.Spec
    boxes: list[tuple[int, int, int, int]]
    caption: str


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures in memory.

    Attributes:
        pixels: (count, 3, height, width) uint8, resized.
        labels: (count, MAX_THINGS) int64, class numbers, -1 where there is no further thing.
        boxes: (count, MAX_THINGS, 4) float32, centre x, centre y, width, height as shares of the picture.
        captions: (count, 3) int64: numbers of the main thing's colour, of its class and of the scene.
    """

    pixels: Tensor
    labels: Tensor
    boxes: Tensor
    captions: Tensor


def pictures(space: int, count: int) -> Iterator[Picture]:
    """The first `count` random pictures of a seed space."""
    for number in range(count):
        rng = np.random.default_rng([space, number])
        spec = render.random_spec(rng)
        scene = render.render(spec, rng)
        image = Image.open(io.BytesIO(render.jpeg(scene.image))).convert("RGB")
        yield Picture(image, spec, scene.boxes, scene.caption)


def pool(space: int, count: int, size: tuple[int, int], resample: Image.Resampling, cache: Path | None = None) -> Pool:
    """Render the first `count` pictures of a seed space and hold them resized to `size` (height, width).

    With `cache`, a folder, a pool rendered earlier is read from there; empty the folder after a change of renderer.
    """
    stored = cache and cache / f"pool-{space}-{count}-{size[0]}x{size[1]}-{int(resample)}.pt"
    if stored and stored.exists():
        return Pool(**torch.load(stored, weights_only=True))
    height, width = size
    pixels = np.zeros((count, height, width, 3), np.uint8)
    labels = torch.full((count, MAX_THINGS), -1)
    boxes = torch.zeros(count, MAX_THINGS, 4)
    captions = torch.zeros(count, 3, dtype=torch.long)
    for row, picture in enumerate(tqdm(pictures(space, count), "rendering", count, disable=None, leave=False)):
        pixels[row] = np.asarray(picture.image.resize((width, height), resample))
        for column, (thing, (x0, y0, x1, y1)) in enumerate(zip(picture.spec.things, picture.boxes, strict=True)):
            labels[row, column] = render.CLASSES.index(thing.label)
            boxes[row, column] = torch.tensor([(x0 + x1) / 2 / render.WIDTH, (y0 + y1) / 2 / render.HEIGHT,
                                               (x1 - x0) / render.WIDTH, (y1 - y0) / render.HEIGHT])  # fmt: skip
        main = picture.spec.things[0]
        captions[row] = torch.tensor([render.COLOURS.index(main.colour), render.CLASSES.index(main.label),
                                      render.SCENES.index(picture.spec.scene)])  # fmt: skip
    made = Pool(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, boxes, captions)
    if stored:
        stored.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: getattr(made, name) for name in Pool.__slots__}, stored)
    return made
