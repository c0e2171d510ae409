"""Measures the sample checkpoints, and OCR, on held-out pictures: `python -m sample.checkpoint_quality [--json FILE]`.

It reads through the pipeline's own extractors with the settings of params.yaml, so it measures what the pipeline
gets, not what a training script saw. Nothing is trained here.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.errors import run_cli
from pipeline.core.features import Regions
from pipeline.core.kinds import KINDS
from pipeline.extractors import registry
from pipeline.extractors.base import Extractor, load
from pipeline.settings import params
from sample import render, training_pictures
from sample.training_pictures import Picture

BATCH = 16
RIDGE = 1e-3  # of the linear probe


def edits(found: str, expected: str) -> int:
    """Levenshtein distance: insertions, deletions and replacements that make one string the other."""
    row = list(range(len(expected) + 1))
    for i, a in enumerate(found, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(expected, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def tag_scores(found: Sequence[Sequence[str]], expected: Sequence[Sequence[str]]) -> dict[str, float]:
    """Micro precision, recall and F1 of the labels of each picture, taken as multisets: two cups count twice."""
    right = sum((Counter(f) & Counter(e)).total() for f, e in zip(found, expected, strict=True))
    precision = right / max(1, sum(map(len, found)))
    recall = right / max(1, sum(map(len, expected)))
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / max(1e-9, precision + recall)}


def sign_scores(found: Sequence[str], expected: Sequence[str | None]) -> dict[str, float]:
    """Errors of OCR.

    Returns:
        character_error_rate: edits per character of the signs; what was read elsewhere in their pictures counts too.
        exact: share of the signs whose picture's text is exactly theirs.
        false_reading_rate: share of the pictures without a sign in which something was read.
    """
    signs = [(f, e) for f, e in zip(found, expected, strict=True) if e]
    blank = [f for f, e in zip(found, expected, strict=True) if not e]
    return {
        "character_error_rate": sum(edits(f, e) for f, e in signs) / max(1, sum(len(e) for _, e in signs)),
        "exact": sum(f == e for f, e in signs) / max(1, len(signs)),
        "false_reading_rate": sum(map(bool, blank)) / max(1, len(blank)),
    }


def probe_scores(found: Sequence[Regions], pictures: Sequence[Picture]) -> dict[str, float]:
    """What a linear layer reads off features, of the mean and the greatest value over a picture's regions.

    It is fitted to the pictures with even numbers by least squares, and scored on those with odd ones.

    Returns:
        scene: share of the scenes that are right.
        things_f1: micro-F1 of the classes of things that are in a picture, however many of each.
    """
    regions = np.stack(found).astype(np.float64)
    features = np.concatenate([regions.mean(1), regions.max(1), np.ones((len(found), 1))], 1)
    scenes = np.array([[p.spec.scene == scene for scene in render.SCENES] for p in pictures])
    things = np.array([[any(t.label == label for t in p.spec.things) for label in render.CLASSES] for p in pictures])
    fitted, scored = features[::2], features[1::2]
    ridge = RIDGE * len(fitted) * np.eye(features.shape[1])
    weights = np.linalg.solve(fitted.T @ fitted + ridge, fitted.T @ np.concatenate([scenes, things], 1)[::2])
    scene, thing = np.split(scored @ weights, [len(render.SCENES)], 1)
    names = [[label for label, there in zip(render.CLASSES, row, strict=True) if there] for row in thing > 0.5]
    truth = [[label for label, there in zip(render.CLASSES, row, strict=True) if there] for row in things[1::2]]
    right = scene.argmax(1) == scenes[1::2].argmax(1)
    return {"scene": float(right.mean()), "things_f1": tag_scores(names, truth)["f1"]}


def read(kind: str, section: Mapping[str, Any], pictures: Sequence[Picture]
         ) -> tuple[list[Any], float]:  # fmt: skip
    """What an extractor says of each picture, and the seconds a picture took, model loading left out."""
    extractor = registry.choose(kind, section).create(params.ExecutionParams(device="cpu", ocr_threads=1))
    if not isinstance(extractor, Extractor):
        raise TypeError(f"{kind}: {section['extractor']} reads no pictures")
    load(extractor)
    images = [picture.image for picture in pictures]
    extractor.extract(images[:2])
    began = time.perf_counter()
    items: list[Any] = []
    for start in range(0, len(images), BATCH):
        items += extractor.extract(images[start : start + BATCH])
    return items, (time.perf_counter() - began) / len(images)


def measure(sections: Mapping[str, Mapping[str, Any]], count: int) -> dict[str, dict[str, float]]:
    """Measure the extractors of the given params sections on the first `count` held-out pictures."""
    pictures = list(training_pictures.pictures(render.HELD_OUT_SPACE, count))
    results: dict[str, dict[str, float]] = {}
    for kind, section in sections.items():
        found, seconds = read(kind, section, pictures)
        if kind == "objects":
            labels = [[tag.label for tag in tags] for tags in found]
            scores = tag_scores(labels, [[thing.label for thing in p.spec.things] for p in pictures])
        elif kind == "captions":
            texts = [captions[0].text for captions in found]
            right = sum(text == p.caption for text, p in zip(texts, pictures, strict=True))
            scores = {"exact": right / count, "distinct_captions": len({p.caption for p in pictures})}
        elif kind == "features":
            scores = probe_scores(found, pictures)
        else:
            texts = [" ".join(line.text for line in lines) for lines in found]
            # A board with two lines is one sign, and a wide gap is one space.
            scores = sign_scores([" ".join(text.split()) for text in texts], [p.spec.sign for p in pictures])
        results[kind] = {**scores, "pictures": count, "seconds_per_picture": seconds}
    return results


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m sample.checkpoint_quality", description=__doc__)
    parser.add_argument("--pictures", type=int, default=1_000, help="how many held-out pictures")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = params.load(options.params)
    sections = {kind: settings.extraction(kind) for kind, entry in KINDS.items() if entry.about == "picture"}
    sections["features"]["extractor"] = sections["features"]["extractor"] or "resnet"  # which is off in a run
    results = measure(sections, options.pictures)
    for kind, scores in results.items():
        print(kind)
        for name, value in scores.items():
            print(f"  {name:<22}{value:>10.0f}" if name in ("pictures", "distinct_captions")
                  else f"  {name:<22}{value:>10.4f}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)
