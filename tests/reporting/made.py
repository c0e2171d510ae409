"""A finished run without its hours: real stages up to the views, then predictions and scores made from the gold labels.

The report reads files, and these are written by the code that always writes them; only what a tagger would have
predicted is drawn at random, and how long it took is made up.
"""

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ner.scoring.evaluation import analyse
from ner.scoring.f1 import confusion
from ner.scoring.surface import Known, score
from ner.training import facts
from pipeline.core import records
from pipeline.core.files import write_json, write_jsonl
from pipeline.core.labels import entities
from pipeline.core.records import Analyses, FoundEntity, Prediction, View, ViewSources
from pipeline.settings import yaml
from pipeline.settings.training import TrainParams
from tests.conftest import ROOT
from tests.project import Project

CONDITIONS = ("cross_modal", "text_only", "shuffled")
SKILL = {"cross_modal": 0.9, "text_only": 0.7, "shuffled": 0.65, "noised": 0.75, "missing": 0.8}
"""How likely a made prediction is to be the gold entity."""

CUT = {"posts": 1, "pieces": 1200}
"""What the made training says of posts too long to be trained whole."""

COLOURS = [(196, 70, 52), (60, 120, 180), (70, 140, 90), (210, 160, 60)]


@dataclass(frozen=True)
class MadePost:
    """A post to make a run of: its label sequence may be None, its picture absent, broken or a size in pixels.

    `also` names posts whose pictures it has, too.
    """

    id: str
    tokens: list[str]
    labels: list[str] | None
    picture: tuple[int, int] | str | None = (120, 90)
    objects: Sequence[Mapping[str, Any]] = ()
    captions: Sequence[str] = ()
    ocr: Sequence[Mapping[str, Any]] = ()
    also: Sequence[str] = ()


def project(
    folder: Path, posts: Mapping[str, Sequence[MadePost]], *, run: bool = True, **sections: Mapping[str, Any]
) -> Project:
    """A folder in which every stage but train, evaluate and report has run.

    Args:
        posts: by split; those that are not named have one post.
        run: whether to run the stages.
        sections: changes of params.yaml.
    """
    folder.mkdir(parents=True)
    made = Project(folder, folder.parent / f"{folder.name}-store")
    for name in ("pipeline", "stages", "ner", "reporting", "checkpoints"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    images = folder / "set" / "images"
    images.mkdir(parents=True)
    filler = [MadePost("filler", ["Paris"], ["B-LOC"], None)]
    for split in ("train", "dev", "test"):
        chosen = posts.get(split, filler)
        write_jsonl(
            folder / "set" / f"{split}.jsonl",
            (
                {
                    "id": post.id,
                    "tokens": post.tokens,
                    "labels": post.labels,
                    "images": [f"{name}.png" for name in ([post.id] if post.picture else []) + list(post.also)],
                }
                for post in chosen
            ),
        )
    named = [post for split in posts.values() for post in split if post.picture is not None]
    for number, post in enumerate(named):
        if isinstance(post.picture, tuple):
            _draw(images / f"{post.id}.png", post.picture, number)
        elif post.picture == "broken":
            (images / f"{post.id}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    readable = [post for post in named if post.picture not in ("broken", "missing")]
    write_jsonl(
        folder / "set/objects.jsonl", ({"image": f"{post.id}.png", "objects": list(post.objects)} for post in readable)
    )
    write_jsonl(
        folder / "set/captions.jsonl",
        (
            {"image": f"{post.id}.png", "captions": [{"text": text, "score": 0.5} for text in post.captions]}
            for post in readable
        ),
    )
    write_jsonl(folder / "set/ocr.jsonl", ({"image": f"{post.id}.png", "ocr": list(post.ocr)} for post in readable))
    made.edit(
        data={
            "root": "set",
            "format": "jsonl",
            "train": ["train.jsonl"],
            "dev": ["dev.jsonl"],
            "test": ["test.jsonl"],
            "images": "images",
            "types": {},
        },
        **{
            kind: {"extractor": "precomputed", "precomputed": {"path": f"set/{kind}.jsonl"}}
            for kind in ("objects", "captions", "ocr")
        },
    )
    made.edit(**sections)
    if not readable:  # nothing to look up: the extractors that would read pictures have none to read
        made.edit(
            **{
                kind: {"extractor": name}
                for kind, name in (("objects", "transformers"), ("captions", "blip"), ("ocr", "rapidocr"))
            }
        )
    for stage in ("posts", "images", "objects", "captions", "ocr", "features", "knowledge", "views") if run else ():
        made.run("python", "-m", f"stages.{stage}")
    return made


def finish(
    made: Project,
    *,
    seed: int = 0,
    scored: Sequence[str] = ("dev", "test"),
    told: Mapping[str, Mapping[str, Any]] | None = None,
) -> Project:
    """Write what train and evaluate would have written, and run the report stage.

    Args:
        made: the run so far.
        seed: of what is drawn.
        scored: splits with scores.
        told: what the tagger tells of posts' own pictures, `relation` and `attention`, by post id.
    """
    settings = yaml.load(made.folder / "params.yaml").values
    conditions = settings["evaluate"]["conditions"]
    samples = settings["evaluate"]["bootstrap_samples"]
    known = Known.of(records.read(made.folder / "data/views/train.jsonl", View, "views"))
    rng = random.Random(seed)
    metrics: dict[str, dict[str, Any]] = {}
    analyses: Analyses = {"temperatures": {}, "splits": {}}
    types = ["PER", "LOC", "ORG", "MISC"]
    for split in ("dev", "test"):
        views = list(records.read(made.folder / f"data/views/{split}.jsonl", View, "views"))
        for condition in conditions:
            rows = [predicted(view, condition, types, rng) for view in views]
            for row in rows if told else []:
                of_own = told.get(row["id"], {}) if told else {}
                row |= of_own if condition == "cross_modal" else {"relation": 0.777} if condition == "shuffled" else {}
            write_jsonl(made.folder / f"data/predictions/{split}.{condition}.jsonl", rows)
            if split not in scored:
                continue
            gold, found = [row["labels"] for row in rows], [row["predicted"] for row in rows]
            as_records = [
                Prediction(**{**row, "entities": [FoundEntity(**one) for one in row["entities"]]}) for row in rows
            ]
            analyses["temperatures"][condition] = 2.0
            analyses["splits"].setdefault(split, {})[condition] = analyse(as_records, 2.0)
            metrics.setdefault(split, {})[condition] = score(
                [row["tokens"] for row in rows], gold, found, known, bootstrap_samples=min(200, samples)
            )
            path = made.folder / f"plots/confusion/{split}.{condition}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                "actual,predicted\n" + "".join(f"{one},{other}\n" for one, other in confusion(gold, found)),
                encoding="utf-8",
            )
    write_json(made.folder / "metrics/evaluation.json", metrics)
    write_json(made.folder / "metrics/analysis.json", analyses)
    for name, values in {
        "train/loss": [9.0, 4.0, 2.5],
        "train/teacher": [0.9, 0.5, 0.4],
        "train/alignment": [],
        "dev/f1_cross_modal": [0.4, 0.7, 0.8],
        "dev/f1_text_only": [0.4, 0.6, 0.65],
    }.items():
        path = made.folder / f"plots/training/plots/metrics/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{step}\t{value}\n" for step, value in enumerate(values, start=1)]
        path.write_text(f"step\t{path.stem}\n{''.join(lines)}", encoding="utf-8")
    written = made.folder / "metrics/runs"
    template = yaml.load(written / "posts.json").values
    write_json(
        written / "train.json",
        template
        | {
            "stage": "train",
            "items": 3,
            "unit": "tweets",
            "resumed": False,
            "encoder": "sha256:0",
            "epochs": 3,
            "best_epoch": 3,
            "dev": {},
            "cut": CUT,
        },
    )
    split_views = {
        split: list(records.read(made.folder / f"data/views/{split}.jsonl", View, "views"))
        for split in ("train", "dev")
    }
    dev = {"f1": 0.7, "f1_text_only": 0.65, "f1_cross_modal": 0.8}
    result = {"epochs": 3, "best_epoch": 3, "dev": dev, "cut": CUT}
    sources = records.read_one(made.folder / "data/views/sources.json", ViewSources, "views")
    train = TrainParams.model_validate(settings["train"])
    (made.folder / "models/tagger").mkdir(parents=True, exist_ok=True)
    facts.write(made.folder / "models/tagger", facts.gather(train, sources, "sha256:0", split_views, result))
    write_json(written / "evaluate.json", template | {"stage": "evaluate", "items": 6, "unit": "tweets"})
    made.run("python", "-m", "stages.report")
    return made


def predicted(view: View, condition: str, types: Sequence[str], rng: random.Random) -> dict[str, Any]:
    """A prediction record: each gold entity kept, mistyped or missed, and now and then one made up."""
    labels = ["O"] * len(view.tokens)
    found = []
    for start, end, kind in entities(view.labels or [], "strict"):
        if rng.random() > SKILL[condition]:
            if rng.random() < 0.4:
                continue
            kind = rng.choice(list(types))
        found.append((start, end, kind))
    free = [place for place in range(len(view.tokens)) if not any(start <= place < end for start, end, _ in found)]
    if free and rng.random() < 0.05:
        place = rng.choice(free)
        found.append((place, place + 1, rng.choice(list(types))))
    for start, end, kind in found:
        labels[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    context = "" if condition == "text_only" else view.context if condition == "cross_modal" else "someone else's"
    return {
        "id": view.id,
        "tokens": view.tokens,
        "labels": view.labels,
        "predicted": labels,
        "entities": [
            {
                "start": start,
                "end": end,
                "type": kind,
                "text": " ".join(view.tokens[start:end]),
                "confidence": round(rng.uniform(0.3, 1), 4),
            }
            for start, end, kind in sorted(found)
        ],
        "context_used": context[:600],
    }


def _draw(path: Path, size: tuple[int, int], number: int) -> None:
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:] = COLOURS[number % len(COLOURS)]
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (number % 256, number // 256 % 256, 128)
    Image.fromarray(pixels).save(path)
