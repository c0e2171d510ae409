"""A training as a stage runs it: what decides what it gives, its checkpoints in the store, its card's facts.

Training checkpoints lie in the store, keyed by everything that training depends on, its code included, so that a
killed run goes on where it was; a finished tagger stays there for a while, so that no kill before DVC has recorded it
costs a training. What trains is `train.trainer`'s to say.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ner.interop.flair import training as flair_training
from ner.models.registry import tagger_class
from ner.training import facts, processes, work_folder
from ner.training import run as training
from ner.training.context_vectors import ContextVectors
from ner.training.teachers import Teachers
from pipeline.core import checkpoints, environments, records
from pipeline.core.hashes import file_digest, modules_digest
from pipeline.core.locks import locked
from pipeline.core.records import RelationPost, View, ViewSources
from pipeline.core.store import Store, digest
from pipeline.settings.params import Params
from pipeline.settings.training import TrainParams
from stages.shared import paths, visuals

_ROOT = Path(__file__).parents[2]
CODE = (
    "ner/bioes.py",
    "ner/decoding.py",
    "ner/views.py",
    "ner/visual.py",
    "ner/crf",
    "ner/encoder",
    "ner/interop/flair",
    "ner/models",
    "ner/scoring",
    "ner/training",
)
"""The rooms that decide what a training gives: one that was begun with other code is not gone on with."""


def code_identity(root: Path = _ROOT) -> dict[str, str]:
    """Digest of the rooms' modules, and the versions of the packages that train."""
    return {
        "rooms": modules_digest(root, CODE),
        **{name: version(name) for name in ("accelerate", "torch", "transformers")},
    }


def _test_words() -> list[str]:
    """The words of the test split, of which a tagger with word vectors keeps those as well; labels are not read."""
    posts = records.read(paths.VIEWS / "test.jsonl", View, "views")
    return sorted({token for post in posts for token in post.tokens})


def _teachers(settings: TrainParams, store: Store, sources: ViewSources) -> Teachers:
    """The saved taggers that teach; a warning where one was trained with other contexts than it will be shown."""
    teachers = Teachers(settings, store)
    if teachers.read_visual:
        teachers = Teachers(settings, store, visuals.opened(), visuals.identity())
    for folder in settings.teacher.folders:
        known = facts.read(folder)["contexts"] if (folder / facts.FILE).exists() else sources.contexts
        if known != sources.contexts and processes.is_first():
            print(
                f"warning: train.teacher.taggers: {folder} was trained with contexts of {known or 'no kind'}, and is "
                f"to read {sources.contexts or 'none'}",
                file=sys.stderr,
            )
    return teachers


def views() -> dict[str, list[View]]:
    """The views that a training reads, by split."""
    return {
        split: list(records.read(paths.VIEWS / f"{split}.jsonl", View, "views"))
        for split in ("train", "dev", "unlabelled")
    }


class Training:
    """A training of params on views.

    Args:
        settings: params.
        store: where its checkpoints lie.
        views: by split.
        parts: what tells views from those of the stage `views`, where they are not all of them.

    Attributes:
        key: digest of everything that decides what it gives.
    """

    def __init__(
        self, settings: Params, store: Store, views: Mapping[str, list[View]], parts: Mapping[str, Any] | None = None
    ) -> None:
        self.settings, self.store, self.views = settings, store, views
        train: Callable[..., dict[str, Any]] = training.train
        if settings.train.trainer == "flair":
            environments.require("flair")
            train = partial(flair_training.train, python=environments.environment("flair").python)
        self.encoder = checkpoints.resolve(settings.train.encoder, settings.train.revision)
        self.sources: ViewSources = records.read_one(paths.SOURCES, ViewSources, "views")
        hashes = {split: hashlib.sha256((paths.VIEWS / f"{split}.jsonl").read_bytes()).hexdigest() for split in views}
        if (vectors := settings.train.word_vectors) is not None:
            words = _test_words()
            train = partial(train, words=words)
            hashes |= {"test words": digest({"words": words}), "word vectors": file_digest(vectors)}
        if settings.train.trainer == "transformers":
            train = partial(train, unlabelled=views["unlabelled"], ddp_timeout=settings.execution.ddp_timeout)
        if tagger_class(settings.train.model).reads_visual:
            train = partial(train, visuals=visuals.opened())
            hashes |= {"visuals": visuals.identity()}
        if settings.train.teacher.folders:
            teachers = _teachers(settings.train, store, self.sources)
            train = partial(train, teachers=teachers)
            hashes |= {"teachers": digest({"teachers": teachers.identities, "shown": teachers.shown})}
        if settings.train.context_target.embedding.weight:
            contexts = ContextVectors(settings.train, store, self.encoder.folder, self.encoder.identity)
            train = partial(train, contexts=contexts)
        if tagger_class(settings.train.model).learns_relation:
            train = partial(train, relation=list(records.read(paths.RELATION, RelationPost, "posts")))
            hashes |= {"relation": file_digest(paths.RELATION)}
        self._train = train
        trained = {"train": settings.train.model_dump(mode="json"), "encoder": self.encoder.identity, "views": hashes}
        self.key = digest({**trained, **(parts or {}), "code": code_identity()})

    def run(self, output: Path, curves: Path | None) -> tuple[dict[str, Any], bool]:
        """Train, or go on with a training that was begun, and write the tagger with its facts.

        Args:
            output: the tagger's folder.
            curves: as of :func:`ner.training.run.train`.

        Returns:
            what :func:`ner.training.run.train` does; whether the training had been begun before.
        """
        settings, work = self.settings, self.store.work_folder("training", self.key)
        lock = self.store.folder / "locks" / f"training-{work.name}.lock"
        waiting = "train: another workspace is training the same (process {holder}); waiting for it to end"
        # The folder, unlike a workspace, is shared by all that train the same.
        with locked(lock, waiting) if processes.is_first() else nullcontext():
            processes.let_first_go_ahead()
            resumed = processes.is_first() and work_folder.has_progress(work)
            result = self._train(
                settings.train,
                encoder=self.encoder.folder,
                train=self.views["train"],
                dev=self.views["dev"],
                output=output,
                work=work,
                curves=curves,
                device=settings.execution.device,
            )
        if processes.is_first():
            pictures = facts.pictures(output, self.sources)
            used = {split: rows for split, rows in self.views.items() if rows or split != "unlabelled"}
            found = facts.gather(settings.train, self.sources, self.encoder.identity, used, result, pictures)
            facts.write(output, found)
        return result, resumed
