"""What the other stages wrote, read back as records: the one place that knows the files behind the report.

What is not there because the run makes none (no test labels, no condition, no curve) is left out of the records, and
the modules that show it say so; what should be there and is not stops the stage.
"""

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.files import read_json, read_jsonl
from pipeline.core.records import Context, Post, View, read_contexts, read_views
from pipeline.corpus import posts
from pipeline.settings.params import KINDS, SPLITS, Condition, Kind, Params, Split

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
STAGES = ("posts", "images", "objects", "captions", "ocr", "views", "train", "evaluate")
"""The stages that leave a record of their run, in order."""


@dataclass(frozen=True)
class Sources:
    """Where the stages' outs lie; ``runs`` holds a record of each stage's run, ``curves`` DVCLive's."""

    posts: Path
    images: Path
    contexts: Path
    views: Path
    predictions: Path
    evaluation: Path
    runs: Path
    curves: Path
    confusion: Path


@dataclass(frozen=True, slots=True)
class Predicted:
    """One condition's predictions of a split: rows of data/predictions, by post id."""

    rows: dict[str, dict[str, Any]]
    confusion: Counter[tuple[str, str]]


@dataclass(frozen=True)
class Results:
    """All that a run came to.

    Attributes:
        posts, views: by split, in the order of the files.
        report: data/posts/report.json.
        images: the manifest's rows by picture name.
        contexts: by kind, then by picture name.
        predictions: by split and condition, those that there are.
        scores: metrics/evaluation.json, without the splits that were not scored.
        runs: by stage.
        curves: by name (``train/loss``), values by epoch.
    """

    settings: Params
    posts: dict[Split, list[Post]]
    report: dict[str, Any]
    images: dict[str, dict[str, Any]]
    contexts: dict[Kind, dict[str, Context]]
    views: dict[Split, dict[str, View]]
    predictions: dict[Split, dict[Condition, Predicted]]
    scores: dict[str, dict[str, Scores]]
    runs: dict[str, dict[str, Any]]
    curves: dict[str, list[tuple[float, float]]]


def read(settings: Params, sources: Sources) -> Results:
    """Read everything.

    Raises:
        UserError: a file is missing or is not what its stage writes.
    """
    predictions: dict[Split, dict[Condition, Predicted]] = {}
    for split in SPLITS:
        for condition in settings.evaluate.conditions:
            path = sources.predictions / f"{split}.{condition}.jsonl"
            if path.exists():
                confusion = sources.confusion / f"{split}.{condition}.csv"
                predictions.setdefault(split, {})[condition] = Predicted(_predictions(path), _confusion(confusion))
    evaluation = read_json(sources.evaluation, "evaluate")
    read_posts = {split: posts.read_records(sources.posts / f"{split}.jsonl") for split in SPLITS}
    images = {row["image"]: row for row in read_jsonl(sources.images)}
    for post in (post for split in SPLITS for post in read_posts[split]):
        if post.image is not None and post.image not in images:
            raise UserError(
                f"{sources.images}: no row for {post.image}, the picture of post {post.id}; run dvc repro images"
            )
    return Results(
        settings=settings,
        posts=read_posts,
        report=read_json(sources.posts / "report.json", "posts"),
        images=images,
        contexts={
            kind: {row.image: row for row in read_contexts(sources.contexts / f"{kind}.jsonl", kind)} for kind in KINDS
        },
        views={split: {view.id: view for view in read_views(sources.views / f"{split}.jsonl")} for split in SPLITS},
        predictions=predictions,
        scores={
            split: {name: scores for name, scores in conditions.items() if scores}
            for split, conditions in evaluation.items()
            if conditions and any(conditions.values())
        },
        runs={stage: read_json(sources.runs / f"{stage}.json", stage) for stage in STAGES},
        curves=_curves(sources.curves),
    )


def _predictions(path: Path) -> dict[str, dict[str, Any]]:
    rows = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            length = len(row["tokens"])
            labels = row["labels"]
            whole = len(row["predicted"]) == length and (labels is None or len(labels) == length)
            inside = all(
                0 <= entity["start"] < entity["end"] <= length
                and 0 <= entity["confidence"] <= 1.001
                and isinstance(entity["type"], str)
                for entity in row["entities"]
            )
            if not (whole and inside and isinstance(row["context_used"], str)):
                raise ValueError
            rows[row["id"]] = row
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}:{number}: no prediction record; run dvc repro evaluate to write it anew") from None
    return rows


def _confusion(path: Path) -> Counter[tuple[str, str]]:
    """How often each (actual, predicted) pair stands in the file; empty where the split was not scored."""
    if not path.exists():
        return Counter()
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != ["actual", "predicted"] or any(len(row) != 2 for row in rows):
        raise UserError(f"{path}: expected the columns actual and predicted; run dvc repro evaluate")
    return Counter((actual, predicted) for actual, predicted in rows[1:])


def _curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """DVCLive's TSV files below plots/metrics: name → (step, value) pairs."""
    base = folder / "plots" / "metrics"
    found = {}
    for path in sorted(base.rglob("*.tsv")):
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        try:
            points = [(float(row["step"]), float(row[path.stem])) for row in rows]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: expected the columns step and {path.stem}; run dvc repro train") from None
        found[path.relative_to(base).with_suffix("").as_posix()] = points
    return found
