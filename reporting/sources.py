"""What the other stages wrote, read back as records: the one place that knows the files behind the report.

What is not there because the run makes none (no test labels, no condition, no curve), or because a stage has not run
yet, is left out of the records, and the modules that show it say so. Posts and manifest there must be.
"""

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.files import read_json
from pipeline.core.kinds import KINDS, PICTURE_KINDS, POST_KINDS, TextKind
from pipeline.core.records import Analyses, Context, Evaluation, ImageRow, Post, Prediction, View
from pipeline.core.runs import RunRecord
from pipeline.settings.params import POST_SPLITS, SPLITS, Condition, Params, PostSplit, Split

STAGES = ("posts", "images", *KINDS, "views", "train", "evaluate")
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
    analysis: Path
    runs: Path
    curves: Path
    confusion: Path


@dataclass(frozen=True, slots=True)
class Predicted:
    """One condition's predictions of a split: rows of data/predictions, by post id."""

    rows: dict[str, Prediction]
    confusion: Counter[tuple[str, str]]


@dataclass(frozen=True)
class Results:
    """All that a run came to.

    Attributes:
        posts, views: by split, in the order of the files.
        report: data/posts/report.json.
        images: the manifest's rows by picture name.
        contexts: by kind, then by picture name.
        notes: of the kinds that are about posts, by kind, then by post id and split.
        predictions: by split and condition, those that there are.
        scores: metrics/evaluation.json, without the splits that were not scored.
        analyses: metrics/analysis.json.
        runs: by stage, of those that have run.
        curves: by name (``train/loss``), values by epoch.
    """

    settings: Params
    posts: dict[PostSplit, list[Post]]
    report: dict[str, Any]
    images: dict[str, ImageRow]
    contexts: dict[str, dict[str, Context]]
    notes: dict[str, dict[tuple[str, str | None], Context]]
    views: dict[Split, dict[str, View]]
    predictions: dict[Split, dict[Condition, Predicted]]
    scores: Evaluation
    analyses: Analyses
    runs: dict[str, RunRecord]
    curves: dict[str, list[tuple[float, float]]]


def read(settings: Params, sources: Sources) -> Results:
    """Read everything that there is.

    Raises:
        UserError: posts or manifest are missing, or a file is not what its stage writes.
    """
    predictions: dict[Split, dict[Condition, Predicted]] = {}
    for split in SPLITS:
        for condition in settings.evaluate.conditions:
            path = sources.predictions / f"{split}.{condition}.jsonl"
            if path.exists():
                confusion = sources.confusion / f"{split}.{condition}.csv"
                predictions.setdefault(split, {})[condition] = Predicted(
                    {row.id: row for row in records.read(path, Prediction, "evaluate")}, _confusion(confusion)
                )
    evaluation: Evaluation = (
        records.read_one(sources.evaluation, Evaluation, "evaluate") if sources.evaluation.exists() else {}
    )
    read_posts = {split: list(records.read(sources.posts / f"{split}.jsonl", Post, "posts")) for split in POST_SPLITS}
    images = {row.image: row for row in records.read(sources.images, ImageRow, "images")}
    for post in (post for split in POST_SPLITS for post in read_posts[split]):
        for image in post.images:
            if image not in images:
                raise UserError(f"{sources.images}: no row for {image}, of post {post.id}; run dvc repro images")
    return Results(
        settings=settings,
        posts=read_posts,
        report=read_json(sources.posts / "report.json", "posts"),
        images=images,
        contexts={
            name: {row.name: row for row in _contexts(kind, sources.contexts / f"{name}.jsonl")}
            for name, kind in PICTURE_KINDS.items()
        },
        notes={
            name: {(row.name, row.split): row for row in _contexts(kind, sources.contexts / f"{name}.jsonl")}
            for name, kind in POST_KINDS.items()
        },
        views={
            split: {view.id: view for view in records.read(path, View, "views")} if path.exists() else {}
            for split in SPLITS
            for path in [sources.views / f"{split}.jsonl"]
        },
        predictions=predictions,
        scores={
            split: {name: scores for name, scores in conditions.items() if scores}
            for split, conditions in evaluation.items()
            if conditions and any(conditions.values())
        },
        analyses=records.read_one(sources.analysis, Analyses, "evaluate")
        if sources.analysis.exists()
        else {"temperatures": {}, "splits": {}},
        runs={
            stage: records.read_one(path, RunRecord, stage)
            for stage in STAGES
            for path in [sources.runs / f"{stage}.json"]
            if path.exists()
        },
        curves=_curves(sources.curves),
    )


def _contexts(kind: TextKind, path: Path) -> Iterable[Context]:
    """The rows of a kind, none where its stage has not run."""
    return kind.read(path) if path.exists() else ()


def _confusion(path: Path) -> Counter[tuple[str, str]]:
    """How often each (actual, predicted) pair is in the file; empty where the split was not scored."""
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
        if points:  # a training has a file, and nothing in it, for what is drawn of others
            found[path.relative_to(base).with_suffix("").as_posix()] = points
    return found
