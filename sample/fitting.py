"""The loop that trains the sample checkpoints: AdamW, warm-up and cosine decay, a moving average of the weights.

What a step's loss is, the callers say, and what a result is worth, checkpoint_quality.py. The tagger is not trained
here but by ner/training/run.py.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        learning_rate: its peak, reached after `warmup` steps and then lowered to 0 along a cosine.
        warmup: steps.
        weight_decay: of AdamW, on matrices alone.
        average: the weights that are kept are a moving average over about 1 / (1 - average) steps.
        report_every: steps between two calls of the reporter.
    """

    steps: int
    learning_rate: float
    warmup: int = 200
    weight_decay: float = 0.02
    average: float = 0.995
    report_every: int = 500


def fit(model: M, loss_at: Callable[[int], Tensor], schedule: Schedule, report: Callable[[int, M], None]) -> M:
    """Train `model` in place and return the moving average of its weights, in eval mode.

    Args:
        model: what is trained.
        loss_at: gives the loss of a step, a scalar; it draws its own batch.
        schedule: see :class:`Schedule`.
        report: called with the steps done and the averaged model.
    """
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98))
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=schedule.warmup)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, schedule.steps - schedule.warmup))
    rate = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [schedule.warmup])
    averaged = copy.deepcopy(model).eval()
    began, recent = time.monotonic(), 0.0
    bar = tqdm(range(1, schedule.steps + 1), "training", disable=None)
    for step in bar:
        model.train()
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        # Early on the average follows fast: the first weights are worth nothing.
        _follow(averaged, model, min(schedule.average, 1 - 10 / (10 + step)))
        recent = loss.item() if step == 1 else 0.98 * recent + 0.02 * loss.item()
        bar.set_postfix(loss=f"{recent:.3f}")
        if step % schedule.report_every == 0 or step == schedule.steps:
            tqdm.write(f"step {step}: loss {recent:.4f}, {time.monotonic() - began:.0f} s")
            report(step, averaged)
    return averaged


@torch.no_grad()
def _follow(averaged: nn.Module, model: nn.Module, share: float) -> None:
    for mean, value in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - share)
        else:
            mean.copy_(value)


def save(model: PreTrainedModel, folder: Path) -> None:
    """Save a float32 model in half its size: the weights as float16, the config saying that they are to be float32.

    `from_pretrained` then gives a float32 model unless it is told otherwise.
    """
    copy.deepcopy(model).half().save_pretrained(folder)
    model.config.save_pretrained(folder)
