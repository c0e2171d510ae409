"""Whether params.yaml is right and what it names is there, before hours are spent on it.

The types of params are in pipeline/settings/params.py, the options of an extractor beside it; here all of them come
together with the disk: data files, checkpoints, free space. Every problem found is in the one message.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path

from pipeline.checks.folders import findings
from pipeline.checks.slips import slips
from pipeline.core import checkpoints, environments, trackers, word_vectors
from pipeline.core.errors import UserError
from pipeline.core.folders import default_folder
from pipeline.core.kinds import KINDS
from pipeline.core.names import has_unpaired_surrogate
from pipeline.corpus.dataset import each_of_split
from pipeline.extractors import registry
from pipeline.images.manifest import look, nothing_readable
from pipeline.settings import params
from pipeline.settings.params import POST_SPLITS, SPLITS, Params
from pipeline.settings.training import TrainParams

_NEEDED_BYTES = 500_000_000  # of DVC's copies of outs, the tagger and its training checkpoints for a small encoder

_LOOKED_AT = 100  # pictures
_TEACHERS = "train.teacher.taggers"
_TAGGER = Path("models/tagger")  # what is trained


def check(path: str | Path = "params.yaml", try_encoder: Callable[[TrainParams], None] | None = None) -> Params:
    """Load params and check what they name. What looks like a slip is a warning on stderr.

    Args:
        path: params.yaml.
        try_encoder: is called where nothing else is wrong; raises UserError if no tagger can be trained on the encoder.

    Raises:
        UserError: with a line for every problem.
    """
    settings, lines = params.load(path), params.key_lines(path)
    at = _at(str(path), lines)
    for key, slip in slips(settings):
        print(f"warning: {at(key)}{slip}", file=sys.stderr)
    found = list(problems(settings, str(path), lines))
    for key, problem, certain in findings(settings):
        if certain:
            found.append(at(key) + problem)
        else:
            print(f"warning: {at(key)}{problem}", file=sys.stderr)
    if not found and (of_pictures := _pictures(settings)):
        problem, certain = of_pictures
        if certain:
            found.append(at("data.images") + problem)
        else:
            print(f"warning: {at('data.images')}{problem}", file=sys.stderr)
    if not found and try_encoder is not None:
        for problem in _caught(partial(try_encoder, settings.train)):
            key = _TEACHERS if problem.startswith(_TEACHERS) else "train.encoder"
            found.append(at(key) + problem.removeprefix(f"{key}: "))
    if found:
        raise UserError("\n".join(found))
    return settings


def _at(source: str, lines: Mapping[str, int]) -> Callable[[str], str]:
    """What stands before a problem with a dotted key: file, line and key."""
    return lambda key: f"{source}:{lines[key]}: {key}: " if key in lines else f"{source}: {key}: "


def problems(settings: Params, source: str, lines: dict[str, int]) -> Iterator[str]:
    """What params name and is not there, a line each; without what takes longer to look at (:func:`check` does).

    Args:
        settings: params.
        source: the file that they are from, for messages.
        lines: dotted key → line of that file.
    """
    at = _at(source, lines)
    for key, problem in _data_problems(settings):
        yield at(key) + problem
    for kind in KINDS:
        section = getattr(settings, kind).model_dump()
        try:
            choice = registry.choose(kind, section, source, lines)
        except UserError as error:
            yield from str(error).splitlines()
            continue
        for problem in _caught(choice.require):
            yield at(f"{kind}.{choice.name}") + problem
        name = choice.interpreter if settings.execution.engine == "ray" else None
        if name is not None and environments.environment(name).problem() is None:
            for problem in _caught(partial(environments.require_ray, name)):
                yield at("execution.engine") + problem.removeprefix("execution.engine: ")
    for problem in _caught(partial(checkpoints.require, settings.train.encoder, settings.train.revision)):
        yield at("train.encoder") + problem
    for folder in settings.train.teacher.folders:
        if folder.resolve() == _TAGGER.resolve():
            yield (
                at(_TEACHERS) + f"{folder}: DVC deletes it before it trains another there; copy it into a folder of "
                "its own, such as checkpoints/teacher"
            )
        elif not folder.is_dir():
            yield at(_TEACHERS) + f"{folder}: no such folder; expected that of a saved tagger"
    if (vectors := settings.train.word_vectors) is not None:
        for problem in _caught(partial(word_vectors.require, vectors)):
            yield at("train.iie4mner.word_vectors") + problem
    for problem in _caught(partial(trackers.require, settings.train.report_to)):
        yield at("train.report_to") + problem
    if settings.train.trainer == "flair":
        for problem in _caught(partial(environments.require, "flair")):
            yield at("train.trainer") + problem
    if has_unpaired_surrogate(str(Path.cwd())):
        yield f"{Path.cwd()}: the path of this folder is not UTF-8, and `dvc repro` fails in it; move or rename it"
    for folder in (Path.cwd(), default_folder()):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < _NEEDED_BYTES:
            yield f"{folder}: {free / 1e6:,.0f} MB free, expected at least {_NEEDED_BYTES / 1e6:,.0f} MB"


def _data_problems(settings: Params) -> Iterator[tuple[str, str]]:
    data = settings.data
    if not data.root.is_dir():
        yield "data.root", f"{data.root}: no such folder"
        return
    if not any(getattr(data, split) for split in SPLITS):
        yield "data.root", "train, dev and test name no file; expected one in any of them"
    for split in SPLITS:
        for file in data.files(split):
            if not file.is_file():
                yield f"data.{split}", f"{file}: no such file"
    for key in ("unlabelled", "relation"):
        for file in (data.root / name for name in getattr(data, key)):
            if not file.is_file():
                yield f"data.{key}", f"{file}: no such file"
    if data.listing_file is not None and not data.listing_file.is_file():
        yield "data.listing", f"{data.listing_file}: no such file; `python -m pipeline.listing` writes it"
    if data.images_folder is not None and not data.images_folder.is_dir():
        yield "data.images", f"{data.images_folder}: no such folder; set it to null for a data set without pictures"


def _pictures(settings: Params) -> tuple[str, bool] | None:
    """Why not one of the first pictures that posts name is there to read, and whether those are all that there are."""
    data = settings.data
    if data.images_folder is None:
        return None
    try:
        posts = chain(*(each_of_split(data, split) for split in POST_SPLITS))
        names = dict.fromkeys(image for post in posts for image in post.images)
    except UserError:
        return None  # the stage `posts` says what is wrong with a text, and where
    rows = look(islice(names, _LOOKED_AT), data.images_folder, settings.images, data.linked_folders)
    reason = nothing_readable(rows, data.images_folder)
    return None if reason is None else (reason, len(names) <= _LOOKED_AT)


def _caught(action: Callable[[], object]) -> Iterator[str]:
    try:
        action()
    except UserError as error:
        yield from str(error).splitlines()
