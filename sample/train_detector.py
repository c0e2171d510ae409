"""Trains checkpoints/sample/detector, a small RT-DETR, on rendered pictures: `python -m sample.train_detector`.

The result loads through `AutoModelForObjectDetection`, as `PekingU/rtdetr_r50vd` does. How good it is,
checkpoint_quality.py measures.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig
from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

from pipeline.core.checksums import seal
from sample import fitting, render, training_pictures
from sample.detector_losses import DenseLoss, one_query_a_thing, settling_loss
from sample.training_pictures import Pool

FOLDER = Path("checkpoints/sample/detector")
SIZE = (96, 128)  # height, width in pixels; both are multiples of 32, the coarsest stride
STRIDES = (8, 16, 32)

Reporter = Callable[[int, RTDetrForObjectDetection], None]


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


def batch(pool: Pool, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random pictures, half of them mirrored: pixels (size, 3, height, width) from 0 to 1, labels and boxes."""
    rows = torch.randint(len(pool.pixels), (size,))
    pixels, labels, boxes = pool.pixels[rows].float() / 255, pool.labels[rows], pool.boxes[rows].clone()
    mirrored = torch.rand(size) < 0.5
    pixels[mirrored] = pixels[mirrored].flip(-1)
    boxes[mirrored, :, 0] = 1 - boxes[mirrored, :, 0]
    return pixels.contiguous(memory_format=torch.channels_last), labels, boxes


def train(model: RTDetrForObjectDetection, pool: Pool, batch_size: int, warm_start: int, schedule: fitting.Schedule,
          report: Reporter) -> RTDetrForObjectDetection:  # fmt: skip
    """Train a detector from nothing: for `warm_start` steps by the dense loss, then by RT-DETR's own along with it."""
    dense = DenseLoss(SIZE, STRIDES)

    def loss_at(step: int) -> Tensor:
        pixels, labels, boxes = batch(pool, batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            if step <= warm_start:
                outputs, loss = model.model(pixels), torch.zeros(())
            else:
                things = [{"class_labels": row[row >= 0], "boxes": box[row >= 0]}
                          for row, box in zip(labels, boxes, strict=True)]  # fmt: skip
                outputs = model(pixels, labels=things)
                loss = outputs.loss
        return loss + dense(outputs.enc_outputs_class.float(), outputs.enc_outputs_coord_logits.float(), labels, boxes)

    return fitting.fit(model, loss_at, schedule, report)


def settle(model: RTDetrForObjectDetection, pool: Pool, batch_size: int, whole: bool, schedule: fitting.Schedule,
           report: Reporter) -> RTDetrForObjectDetection:  # fmt: skip
    """Train the decoder, or the `whole` model, so that each thing is reported once.

    After `train` the classes and boxes are right, but a fifth of the things is reported by two queries.
    """
    dense = DenseLoss(SIZE, STRIDES)
    model.requires_grad_(whole)
    model.model.decoder.requires_grad_(True)

    def loss_at(_: int) -> Tensor:
        model.eval()  # the statistics of batch normalisation stay
        pixels, labels, boxes = batch(pool, batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(pixels)
        queries = one_query_a_thing(outputs.enc_topk_logits.float(), outputs.enc_topk_bboxes.float(), labels, boxes)
        loss = settling_loss(outputs.intermediate_logits.float(), outputs.intermediate_reference_points.float(),
                             queries, labels, boxes)  # fmt: skip
        if whole:
            loss += dense(outputs.enc_outputs_class.float(), outputs.enc_outputs_coord_logits.float(), labels, boxes)
        return loss

    return fitting.fit(model, loss_at, schedule, report)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m sample.train_detector", description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--warm-start", type=int, default=1_000, help="steps with the dense loss alone")
    parser.add_argument("--settling-steps", type=int, default=2_000, help="steps of the decoder alone, after those")
    parser.add_argument("--finishing-steps", type=int, default=1_500, help="steps of all of it, at the end")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="a folder that keeps rendered pictures between runs")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    torch.manual_seed(options.seed)
    images = processor()
    model = RTDetrForObjectDetection(config()).to(memory_format=torch.channels_last)
    print(f"detector: {model.num_parameters():,} parameters")
    pool = training_pictures.pool(render.TRAINING_SPACE, options.pictures, SIZE, Image.Resampling.BILINEAR,
                                  options.cache)  # fmt: skip

    def report(_: int, averaged: RTDetrForObjectDetection) -> None:
        fitting.save(averaged, options.output)
        images.save_pretrained(options.output)
        seal(options.output)

    model = train(model, pool, options.batch_size, options.warm_start,
                  fitting.Schedule(options.steps, options.learning_rate), report)  # fmt: skip
    model = settle(model, pool, options.batch_size, False,
                   fitting.Schedule(options.settling_steps, options.learning_rate), report)  # fmt: skip
    settle(model, pool, options.batch_size, True,
           fitting.Schedule(options.finishing_steps, options.learning_rate / 2), report)  # fmt: skip


if __name__ == "__main__":
    main()
