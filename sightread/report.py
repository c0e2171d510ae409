"""Tagged posts, gathered for a page of their own: the report's gallery, with scores where all posts have labels.

Nothing is trained or read again; the page is :mod:`reporting.tagged`'s.
"""

import json
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ner.scoring.f1 import score
from ner.training import facts
from pipeline.core import records
from pipeline.core.files import portable
from pipeline.core.kinds import KINDS, PICTURE_KINDS, POST_KINDS
from pipeline.core.machine import cores
from pipeline.core.records import Context, Evaluation, ImageRow, Post, Prediction, View
from pipeline.core.runs import Machine, RunRecord
from pipeline.core.store import Store
from pipeline.corpus.reading import unique_ids
from pipeline.corpus.report import report
from pipeline.images.pictures import Folder
from pipeline.settings.params import POST_SPLITS, SPLITS, Condition, Params, Split
from reporting import tagged, thumbnails
from reporting.sources import Predicted, Results
from sightread.reading import Reader
from sightread.tagging import Tagged

SPLIT: Split = "test"
"""The split that posts are shown as; the gallery's filters leave it out, as there is no other."""
CONDITIONS: tuple[Condition, ...] = ("cross_modal", "text_only")


class Gathered:
    """Tagged posts, as the gallery takes them.

    Args:
        settings: params, whose `evaluate` and `report` say how posts are scored and shown.
        reader: what has read their pictures.
    """

    def __init__(self, settings: Params, reader: Reader) -> None:
        self.settings = settings.model_copy(
            update={
                "evaluate": settings.evaluate.model_copy(update={"conditions": list(CONDITIONS)}),
                "report": settings.report.model_copy(update={"splits": [SPLIT]}),
            }
        )
        self._reader = reader
        self._found: list[Tagged] = []

    def add(self, found: Tagged) -> None:
        """Take in one more post."""
        self._found.append(found)

    def write(self, output: Path, name: str, model: str, folder: Path | None) -> None:
        """Write the page, its assets, and evaluation.json where all posts have labels; else none stays there.

        Args:
            output: a folder; what else is in it stays.
            name: what the posts are called.
            model: the tagger's folder or name.
            folder: of the pictures.

        Raises:
            UserError: the folder cannot be written.
        """
        results, settings = self.results(), self.settings
        rows = [row for _, row in sorted(results.images.items())]
        place = None if folder is None else Folder(folder, settings.images, settings.data.linked_folders)
        with Store.open() as store:
            small = thumbnails.write(
                rows,
                place,
                output / "assets" / "thumbnails",
                settings.report.thumbnail,
                settings.images,
                store,
                settings.execution.decode_workers,
            )
        told = _told(Path(model))
        changed = sum(found.changed for found in self._found)
        head = tagged.Head(name, portable(model), told.get("encoder"), told.get("data"), changed)
        tagged.write(results, head, small, output)
        scores = output / "evaluation.json"
        if results.scores:
            records.write_one(scores, results.scores, Evaluation)
        else:
            scores.unlink(missing_ok=True)  # of other posts, for which the page was made before

    def results(self) -> Results:
        """All that was found, as a run's."""
        unique = list(unique_ids(found.post for found in self._found))
        rows: dict[str, ImageRow] = {}
        contexts: dict[str, dict[str, Context]] = {kind: {} for kind in PICTURE_KINDS}
        notes: dict[str, dict[tuple[str, str | None], Context]] = {kind: {} for kind in POST_KINDS}
        views: dict[str, View] = {}
        predictions: dict[Condition, dict[str, Prediction]] = {condition: {} for condition in CONDITIONS}
        for post, found in zip(unique, self._found, strict=True):
            views[post.id] = View(post.id, post.tokens, post.labels, found.context, post.images)
            predictions["cross_modal"][post.id] = replace(found.seen, id=post.id)
            predictions["text_only"][post.id] = replace(found.alone, id=post.id)
            for picture in found.pictures:
                rows[picture.row.image] = picture.row
                for kind, context in picture.found.items():
                    contexts[kind][picture.row.image] = context
            for kind, context in found.notes.items():
                notes[kind][post.id, SPLIT] = context
        posts: dict[Any, list[Post]] = {split: [] for split in POST_SPLITS} | {SPLIT: unique}
        return Results(
            settings=self.settings,
            posts=posts,
            report=report(posts),
            images=rows,
            contexts=contexts,
            notes=notes,
            views={split: {} for split in SPLITS} | {SPLIT: views},
            predictions={SPLIT: {name: Predicted(each, Counter()) for name, each in predictions.items()}},
            scores=self._scores(unique, predictions),
            analyses={"temperatures": {}, "splits": {}},
            runs=self._runs(),
            curves={},
        )

    def _scores(self, posts: list[Post], predictions: Mapping[Condition, Mapping[str, Prediction]]) -> Evaluation:
        """Of all posts, if they have labels."""
        if not posts or any(post.labels is None for post in posts):
            return {}
        settings, gold = self.settings.evaluate, [post.labels or [] for post in posts]
        return {
            SPLIT: {
                condition: score(
                    gold,
                    [found[post.id].predicted for post in posts],
                    bootstrap_samples=settings.bootstrap_samples,
                    confidence=settings.confidence,
                    seed=settings.bootstrap_seed,
                )
                for condition, found in predictions.items()
            }
        }

    def _runs(self) -> dict[str, RunRecord]:
        """Which extractor each kind was read by, which is all that the gallery asks of runs."""
        machine = Machine(f"{platform.system()} {platform.machine()}", platform.python_version(), cores(), None)
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        names = {kind: choice.name for kind, choice in self._reader.choices.items()}
        return {kind: RunRecord(kind, 0.0, finished, machine, extractor=names.get(kind)) for kind in KINDS}


def _told(folder: Path) -> dict[str, str]:
    """What a tagger says of itself: its encoder and its data; nothing where it was not trained by the stages."""
    if not (folder / facts.FILE).exists():
        return {}
    found = facts.read(folder)
    told = {"encoder": (found.get("encoder") or {}).get("name"), "data": found.get("data")}
    return {key: json.dumps(value) if not isinstance(value, str) else value for key, value in told.items() if value}
