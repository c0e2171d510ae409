"""Stage `train`: views → models/tagger/, and the learning curves.

Training checkpoints lie in the store, keyed by everything that training depends on, its code included, so that a
killed run goes on where it was; a finished tagger stays there for a while, so that no kill before DVC has recorded it
costs a training. What trains is `train.trainer`'s to say.
"""

import hashlib
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ner.interop.flair import training as flair_training
from ner.models.registry import tagger_class
from ner.training import facts, processes, work_folder
from ner.training import run as training
from ner.training.teachers import Teachers
from pipeline.core import checkpoints, environments, records
from pipeline.core.errors import run_cli
from pipeline.core.hashes import file_digest, modules_digest
from pipeline.core.locks import locked, stage_lock
from pipeline.core.records import RelationPost, View, ViewSources
from pipeline.core.store import Store, digest
from pipeline.settings import params
from pipeline.settings.training import TrainParams
from stages.shared import paths, visuals
from stages.shared.record import recorded

_ROOT = Path(__file__).parents[1]
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


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    train: Callable[..., dict[str, Any]] = training.train
    if settings.train.trainer == "flair":
        environments.require("flair")
        train = partial(flair_training.train, python=environments.environment("flair").python)
    if processes.launched():
        processes.end_with_launcher()
    elif settings.execution.processes > 1:
        processes.relaunch("stages.train", settings.execution.processes)
    encoder = checkpoints.resolve(settings.train.encoder, settings.train.revision)
    files = {split: paths.VIEWS / f"{split}.jsonl" for split in ("train", "dev", "unlabelled")}
    with ExitStack() as stack:
        store = stack.enter_context(Store.open())
        record: dict[str, Any] = {}
        if processes.is_first():
            stack.enter_context(stage_lock("train"))
            record = stack.enter_context(recorded("train"))
        views = {split: list(records.read(path, View, "views")) for split, path in files.items()}
        sources: ViewSources = records.read_one(paths.SOURCES, ViewSources, "views")
        hashes = {split: hashlib.sha256(path.read_bytes()).hexdigest() for split, path in files.items()}
        if (vectors := settings.train.word_vectors) is not None:
            words = _test_words()
            train = partial(train, words=words)
            hashes |= {"test words": digest({"words": words}), "word vectors": file_digest(vectors)}
        if settings.train.trainer == "transformers":
            train = partial(train, unlabelled=views["unlabelled"])
        if tagger_class(settings.train.model).reads_visual:
            train = partial(train, visuals=visuals.opened())
            hashes |= {"visuals": visuals.identity()}
        if settings.train.teacher.folders:
            teachers = _teachers(settings.train, store, sources)
            train = partial(train, teachers=teachers)
            hashes |= {"teachers": digest({"teachers": teachers.identities, "shown": teachers.shown})}
        if tagger_class(settings.train.model).learns_relation:
            train = partial(train, relation=list(records.read(paths.RELATION, RelationPost, "posts")))
            hashes |= {"relation": file_digest(paths.RELATION)}
        trained = {"train": settings.train.model_dump(mode="json"), "encoder": encoder.identity, "views": hashes}
        key = digest({**trained, "code": code_identity()})
        work = store.work_folder("training", key)
        if processes.is_first():  # the folder, unlike a workspace, is shared by all that train the same
            lock = store.folder / "locks" / f"training-{work.name}.lock"
            waiting = "train: another workspace is training the same (process {holder}); waiting for it to end"
            stack.enter_context(locked(lock, waiting))
        processes.let_first_go_ahead()
        resumed = processes.is_first() and work_folder.has_progress(work)
        result = train(
            settings.train,
            encoder=encoder.folder,
            train=views["train"],
            dev=views["dev"],
            output=paths.TAGGER,
            work=work,
            curves=paths.CURVES,
            device=settings.execution.device,
        )
        if processes.is_first():
            pictures = facts.pictures(paths.TAGGER, sources)
            used = {split: rows for split, rows in views.items() if rows or split != "unlabelled"}
            found = facts.gather(settings.train, sources, encoder.identity, used, result, pictures)
            facts.write(paths.TAGGER, found)
        # The time of a resumed training is that of its last part, and says nothing of how many tweets a second.
        record |= {
            "items": None if resumed else len(views["train"]) * result["epochs"],
            "unit": "tweets",
            "resumed": resumed,
            "encoder": encoder.identity,
            **result,
        }


if __name__ == "__main__":
    run_cli(main, __doc__)
