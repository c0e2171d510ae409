"""Trains checkpoints/sample/detector, a small RT-DETR, on rendered pictures: `python -m sample.train_detector`.

The result loads through `AutoModelForObjectDetection`, as `PekingU/rtdetr_r50vd` does. How good it is,
checkpoint_quality.py measures.
"""

import argparse
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

from sample import fitting, render, training_pictures

FOLDER = Path("checkpoints/sample/detector")
SIZE = (96, 128)  # height, width in pixels; both are multiples of 32, the coarsest stride
STRIDES = (8, 16, 32)
SMALL = 0.31  # a thing no longer than this share of the picture's width is looked for on the finest feature map


def processor() -> RTDetrImageProcessorPil:
    """The image processor that is saved beside the model."""
    return RTDetrImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]})


def config() -> RTDetrConfig:
    """The architecture: RT-DETR's, with few and narrow layers."""
    names = dict(enumerate(render.CLASSES))
    backbone = RTDetrResNetConfig(embedding_size=32, hidden_sizes=[32, 64, 96, 128], depths=[1, 1, 1, 1],
                                  layer_type="basic", out_features=["stage2", "stage3", "stage4"])  # fmt: skip
    return RTDetrConfig(
        backbone_config=backbone, freeze_backbone_batch_norms=False,  # there are no pretrained statistics to keep
        encoder_hidden_dim=96, encoder_in_channels=[64, 96, 128], encoder_ffn_dim=192, encoder_attention_heads=3,
        hidden_expansion=0.5, d_model=96, decoder_in_channels=[96, 96, 96], decoder_ffn_dim=192, decoder_layers=2,
        decoder_attention_heads=3, num_queries=24, num_denoising=16, feat_strides=list(STRIDES),
        id2label=names, label2id={name: number for number, name in names.items()},
    )  # fmt: skip


class DenseLoss:
    """Teaches every cell of the encoder's feature maps directly, as CenterNet does its heat maps.

    RT-DETR's own loss reaches only the cells that are selected as queries, and a backbone that starts from nothing
    selects the wrong ones for thousands of steps. Here the cell at a thing's centre should say its class and box,
    cells close by are punished less for saying it too, all others should be silent.
    (Zhou et al. 2019, Objects as Points, eq. 1, with the anchors and heads of RT-DETR.)
    """

    def __init__(self) -> None:
        """Lay out the centres of all cells, level after level, as RT-DETR flattens them."""
        centres, levels = [], []
        for level, stride in enumerate(STRIDES):
            rows, columns = SIZE[0] // stride, SIZE[1] // stride
            y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns,
                                  indexing="ij")  # fmt: skip
            centres.append(torch.stack([x, y], -1).view(-1, 2))
            levels.append(torch.full((rows * columns,), level))
        self.centres = torch.cat(centres)  # (cells, 2)
        self.levels = torch.cat(levels)  # (cells,)

    def __call__(self, logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (pictures, cells, classes), the encoder's class scores.
            boxes: (pictures, cells, 4), its boxes before the sigmoid.
            labels: (pictures, things), -1 where there is none.
            truth: (pictures, things, 4), centre x, centre y, width, height.
        """
        there = labels >= 0
        level = torch.where(truth[..., 2:].amax(-1) <= SMALL, 0, 1)  # (pictures, things)
        offsets = (self.centres - truth[:, :, None, :2]) / truth[:, :, None, 2:].clamp(min=1e-3)
        distance = offsets.square().sum(-1)  # (pictures, things, cells), 1: as far from the centre as the box is long
        distance = distance.masked_fill(self.levels != level[..., None], float("inf"))
        nearest = distance.argmin(-1)  # (pictures, things)
        heat = torch.exp(-distance / (2 * 0.17**2)) * there[..., None]
        picture, thing = there.nonzero(as_tuple=True)
        cell, label = nearest[picture, thing], labels[picture, thing]

        target = torch.zeros_like(logits)
        index = labels.clamp(min=0)[..., None, None].expand(-1, -1, logits.shape[1], 1)
        for slot in range(labels.shape[1]):
            seen = target.gather(2, index[:, slot])
            target.scatter_(2, index[:, slot], torch.maximum(seen, heat[:, slot, :, None]))
        target = target.clamp(max=0.99)
        target[picture, cell, label] = 1.0
        probability = logits.sigmoid()
        positive = -nn.functional.logsigmoid(logits) * (1 - probability).square()
        negative = -nn.functional.logsigmoid(-logits) * probability.square() * (1 - target) ** 4
        scores = torch.where(target == 1, positive, negative).sum() / max(1, len(cell))
        offset = nn.functional.l1_loss(boxes[picture, cell].sigmoid(), truth[picture, thing], reduction="sum")
        return scores + 5 * offset / max(1, len(cell))


def train(folder: Path, count: int, batch_size: int, warm_start: int, schedule: fitting.Schedule, seed: int,
          cache: Path | None = None) -> None:  # fmt: skip
    """Train a detector on `count` pictures and save it to `folder`, now and then on the way too.

    For the first `warm_start` steps the dense loss alone is learned, then RT-DETR's own along with it.
    """
    torch.manual_seed(seed)
    images = processor()
    model = RTDetrForObjectDetection(config()).to(memory_format=torch.channels_last)
    dense = DenseLoss()
    print(f"detector: {model.num_parameters():,} parameters")
    pool = training_pictures.pool(render.TRAINING_SPACE, count, SIZE, Image.Resampling.BILINEAR, cache)

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(count, (batch_size,))
        pixels, boxes, labels = pool.pixels[rows].float() / 255, pool.boxes[rows].clone(), pool.labels[rows]
        mirrored = torch.rand(batch_size) < 0.5
        pixels[mirrored] = pixels[mirrored].flip(-1)
        boxes[mirrored, :, 0] = 1 - boxes[mirrored, :, 0]
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            if step <= warm_start:
                outputs = model.model(pixels)
                return dense(outputs.enc_outputs_class.float(), outputs.enc_outputs_coord_logits.float(), labels, boxes)
            things = [{"class_labels": row[row >= 0], "boxes": box[row >= 0]}
                      for row, box in zip(labels, boxes, strict=True)]  # fmt: skip
            outputs = model(pixels, labels=things)
        return outputs.loss + dense(outputs.enc_outputs_class.float(), outputs.enc_outputs_coord_logits.float(),
                                    labels, boxes)  # fmt: skip

    def report(_: int, averaged: RTDetrForObjectDetection) -> None:
        fitting.save(averaged, folder)
        images.save_pretrained(folder)

    fitting.fit(model, loss_at, schedule, report)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m sample.train_detector", description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--warm-start", type=int, default=1_000, help="steps with the dense loss alone")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="a folder that keeps rendered pictures between runs")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    train(options.output, options.pictures, options.batch_size, options.warm_start,
          fitting.Schedule(options.steps, options.learning_rate), options.seed, options.cache)  # fmt: skip


if __name__ == "__main__":
    main()
