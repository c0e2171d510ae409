"""Contestants of the training benchmark for the systems that read pictures as tensors, and what they are held to.

A step of RpBERT is compared with the three encoder passes that it needs (the tweet alone; the tweet with the regions,
for their relation; again, for the labels), one of IIE4MNER with its one pass, its projections of regions and its twelve
layers. Every post has a picture of random features, as many and as wide as a ResNet-152's.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.training_sides import Work, examples_of, plain_encoder, seconds_of, step_of, tagger_in

N_CELLS, REGION_WIDTH = 49, 2048
N_LABELS = 80  # of objects
SYSTEMS = ("rpbert", "iie4mner")


def prepare_systems(encoder: Path, scratch: Path) -> None:
    """An untrained tagger of each system in ``scratch/SYSTEM``, with the labels of that in ``scratch/start``."""
    from ner.models.folder import load_config, load_tokenizer, quietly
    from ner.models.registry import tagger_class
    from pipeline.settings.training import TrainParams

    labels = load_config(scratch / "start").tag_labels or []
    facts = {
        "region_width": REGION_WIDTH,
        "n_cells": N_CELLS,
        "fingerprint": None,
        "object_labels": [f"object {number}" for number in range(N_LABELS)],
    }
    with quietly():
        tokenizer = load_tokenizer(encoder, local_files_only=True)
        for system in SYSTEMS:
            torch.manual_seed(1)
            params = TrainParams.model_validate({"encoder": str(encoder), "model": system})
            model = tagger_class(system).from_encoder(encoder, labels, params, facts=facts, local_files_only=True)
            model.save_pretrained(scratch / system)
            tokenizer.save_pretrained(scratch / system)


def system_step(work: Work, device: str, system: str, views: str = "both") -> Callable[[], float]:
    """As :func:`benchmarks.training_sides.our_step`, of another system, on tweets with pictures."""
    from ner.training.sampler import Example
    from ner.visual import UNKNOWN_OBJECT, PostVisual

    generator = np.random.default_rng(1)
    grids = [generator.standard_normal((N_CELLS, REGION_WIDTH)).astype(np.float16) for _ in range(work.batch_size)]
    examples = []
    for place, example in enumerate(examples_of(work)):
        objects = generator.integers(UNKNOWN_OBJECT + 1, N_LABELS, 5).tolist()
        text = example.views["text_only"]
        shown = replace(text, visual=PostVisual((grids[place % len(grids)],), tuple(objects)))
        examples.append(Example({"text_only": text, "cross_modal": shown}, example.labels))

    return step_of(tagger_in(work.scratch / system, device), examples, work, device, views)


def rpbert_alone(work: Work, device: str) -> Callable[[], float]:
    """Three passes of transformers' own encoder, forward and backward: the tweets, and twice with regions behind them.

    As in :func:`benchmarks.training_sides.encoder_alone`, a batch's sub-tokens are dealt out in equal lengths.
    """
    encoder = plain_encoder(work, device)
    embeddings = encoder.get_input_embeddings()

    def action() -> None:
        for ids in _dealt(work, device):
            regions = torch.zeros(len(ids), N_CELLS, embeddings.embedding_dim, device=device)
            for _ in range(2):
                _through(encoder(inputs_embeds=torch.cat([embeddings(ids), regions], 1)).last_hidden_state)
            _through(encoder(input_ids=ids).last_hidden_state)
        encoder.zero_grad()

    return lambda: seconds_of(action, device, work.precision)


def iie4mner_alone(work: Work, device: str) -> Callable[[], float]:
    """One pass of transformers' own encoder, the projections of regions, and the twelve layers, all without padding."""
    encoder, model = plain_encoder(work, device), tagger_in(work.scratch / "iie4mner", device)
    n_tokens = [len(row["text_only"]["firsts"]) for row in work.rows]

    def action() -> None:
        for ids, batch in zip(_dealt(work, device), work.batches(), strict=True):
            size, length = ids.shape
            q = min(length, round(sum(n_tokens[place] for place in batch) / size))
            text_bias, of = torch.zeros(size, 1, 1, length, device=device), torch.arange(size, device=device)
            hidden = encoder(input_ids=ids).last_hidden_state
            states = model.text(hidden, hidden, text_bias)
            grid = torch.zeros(size, N_CELLS, REGION_WIDTH, device=device)
            objects = torch.zeros(size, 5, hidden.shape[-1], device=device)
            seen = [model.spans(hidden[:, :q], hidden, text_bias), states]
            for branch, items in (
                (model.coarse, (model.regions(grid), model.regions_again(grid))),
                (model.fine, (objects, objects)),
            ):
                mask = torch.ones(items[0].shape[:2], dtype=torch.bool, device=device)
                seen.append(branch(states[:, :q], states, text_bias, items, mask, of))
            _through(torch.cat(seen, 1))
        encoder.zero_grad()
        model.zero_grad()

    return lambda: seconds_of(action, device, work.precision)


def _dealt(work: Work, device: str) -> list[Any]:
    """The sub-tokens of each batch's tweets in equal lengths, *Shape:* (tweets, length) each."""
    dealt = []
    for batch in work.batches():
        pieces = [piece for place in batch for piece in work.rows[place]["text_only"]["input_ids"]]
        length = round(len(pieces) / len(batch))
        pieces = (pieces + pieces)[: length * len(batch)]
        dealt.append(torch.tensor(pieces, device=device).view(len(batch), length))
    return dealt


def _through(hidden: torch.Tensor) -> None:
    hidden.backward(torch.ones_like(hidden))


SIDES: dict[str, tuple[str, Callable[[Work, str], Callable[[], float]]]] = {
    "rpbert's passes alone": ("text", rpbert_alone),
    "rpbert's step": ("text", lambda work, device: system_step(work, device, "rpbert")),
    "rpbert's step, cross-modal alone": (
        "text",
        lambda work, device: system_step(work, device, "rpbert", "cross_modal"),
    ),
    "iie4mner's pass and layers alone": ("text", iie4mner_alone),
    "iie4mner's step": ("text", lambda work, device: system_step(work, device, "iie4mner")),
    "iie4mner's step, cross-modal alone": (
        "text",
        lambda work, device: system_step(work, device, "iie4mner", "cross_modal"),
    ),
}
