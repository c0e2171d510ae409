"""Trains checkpoints/sample/resnet, a small ResNet, on rendered pictures: `python -m sample.train_resnet`.

The result loads through `ResNetModel`, as `microsoft/resnet-152` does; its last stage is what the stage `features`
keeps. It is taught by linear layers on that stage, which are then left out: what each region shows, what there is in
the picture, and its scene. So all three can be read off the features by a linear layer. How well,
checkpoint_quality.py measures.
"""

import argparse
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel

from pipeline.core.checksums import seal
from pipeline.extractors._grid import IMAGENET_MEAN, IMAGENET_STD
from sample import fitting, render, training_pictures
from sample.training_pictures import Pool

FOLDER = Path("checkpoints/sample/resnet")
SIDE = 224  # pixels
GRID = 7  # regions a side
NOTHING = len(render.CLASSES)  # the class of a region that shows no thing


def config() -> ResNetConfig:
    """The architecture: ResNet-18's, with few and narrow layers."""
    return ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 96, 192], depths=[1, 1, 1, 1], layer_type="basic")


class Taught(nn.Module):
    """The ResNet and the linear layers that teach it."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNetModel(config()).to(memory_format=torch.channels_last)
        width = self.resnet.config.hidden_sizes[-1]
        self.regions = nn.Linear(width, len(render.CLASSES) + 1)
        self.things = nn.Linear(width, len(render.CLASSES))
        self.scenes = nn.Linear(width, len(render.SCENES))

    def loss(self, pixels: Tensor, labels: Tensor, boxes: Tensor, scenes: Tensor) -> Tensor:
        """Cross-entropy of regions, things and scene, each a mean, added up.

        Args:
            pixels: normalised, *Shape:* (batch, 3, side, side).
            labels: as of :class:`sample.training_pictures.Pool`, *Shape:* (batch, MAX_THINGS).
            boxes: likewise, *Shape:* (batch, MAX_THINGS, 4).
            scenes: numbers of the scenes, *Shape:* (batch,).
        """
        with torch.autocast("cpu", torch.bfloat16):
            found = self.resnet(pixels).last_hidden_state
        found = found.float().flatten(2).transpose(1, 2)
        mean = found.mean(1)
        present = torch.zeros(len(labels), NOTHING + 1).scatter_(1, labels.where(labels >= 0, NOTHING), 1.0)
        return (
            functional.cross_entropy(self.regions(found).flatten(0, 1), shown(labels, boxes).flatten())
            + functional.binary_cross_entropy_with_logits(self.things(mean), present[:, :NOTHING])
            + functional.cross_entropy(self.scenes(mean), scenes)
        )


def shown(labels: Tensor, boxes: Tensor) -> Tensor:
    """The class of the thing whose box each region's centre lies in, the nearest thing's of several, or NOTHING.

    Args:
        labels, boxes: as of :class:`sample.training_pictures.Pool`, *Shape:* (batch, MAX_THINGS) and (…, 4).

    Returns:
        Classes, row by row, *Shape:* (batch, GRID · GRID).
    """
    places = (torch.arange(GRID) + 0.5) / GRID
    centres = torch.stack(torch.meshgrid(places, places, indexing="ij"), -1).flip(-1).reshape(1, -1, 1, 2)
    away = (centres - boxes[:, None, :, :2]).abs() / (boxes[:, None, :, 2:] / 2).clamp(min=1e-6)
    distance = away.amax(-1).masked_fill(labels[:, None, :] < 0, torch.inf)  # within a box up to 1
    nearest = distance.min(-1)
    return labels.gather(1, nearest.indices).where(nearest.values <= 1, NOTHING)


def batch(pool: Pool, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random pictures, half of them mirrored, as :meth:`Taught.loss` takes them."""
    rows = torch.randint(len(pool.pixels), (size,))
    pixels, boxes = pool.pixels[rows].float() / 255, pool.boxes[rows].clone()
    mirrored = torch.rand(size) < 0.5
    pixels[mirrored] = pixels[mirrored].flip(-1)
    boxes[mirrored, :, 0] = 1 - boxes[mirrored, :, 0]
    pixels = (pixels - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    return pixels.contiguous(memory_format=torch.channels_last), pool.labels[rows], boxes, pool.captions[rows, 2]


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m sample.train_resnet", description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--pictures", type=int, default=6_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="a folder that keeps rendered pictures between runs")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(options.seed)
    model = Taught()
    print(f"ResNet: {model.resnet.num_parameters():,} parameters")
    pool = training_pictures.pool(
        render.TRAINING_SPACE, options.pictures, (SIDE, SIDE), Image.Resampling.BILINEAR, options.cache
    )

    def report(_: int, averaged: Taught) -> None:
        fitting.save(averaged.resnet, options.output)
        seal(options.output)

    schedule = fitting.Schedule(options.steps, options.learning_rate, warmup=100, average=0.98, report_every=250)
    fitting.fit(model, lambda _: model.loss(*batch(pool, options.batch_size)), schedule, report)


if __name__ == "__main__":
    main()
