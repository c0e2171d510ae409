"""Whether params.yaml is right and what it names is there, before hours are spent on it.

The types of params are in pipeline/settings/params.py, the options of an extractor beside it; here all of them come
together with the disk: data files, checkpoints, free space. Every problem found is in the one message.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pipeline.checks.slips import slips
from pipeline.core import checkpoints, environments
from pipeline.core.errors import UserError
from pipeline.core.folders import default_folder
from pipeline.core.kinds import KINDS
from pipeline.extractors import registry
from pipeline.settings import params
from pipeline.settings.params import SPLITS, Params

_NEEDED_BYTES = 500_000_000  # of DVC's copies of outs, the tagger and its training checkpoints for a small encoder


def check(path: str | Path = "params.yaml") -> Params:
    """Load params and check what they name. What looks like a slip is a warning on stderr.

    Raises:
        UserError: with a line for every problem.
    """
    settings, lines = params.load(path), params.key_lines(path)

    def at(key: str) -> str:
        return f"{path}:{lines[key]}: {key}: " if key in lines else f"{path}: {key}: "

    for key, slip in slips(settings):
        print(f"warning: {at(key)}{slip}", file=sys.stderr)
    problems = list(_problems(settings, str(path), lines, at))
    if problems:
        raise UserError("\n".join(problems))
    return settings


def _problems(settings: Params, path: str, lines: dict[str, int], at: Callable[[str], str]) -> Iterator[str]:
    for key, problem in _data_problems(settings):
        yield at(key) + problem
    for kind in KINDS:
        section = getattr(settings, kind).model_dump()
        try:
            choice = registry.choose(kind, section, path, lines)
        except UserError as error:
            yield from str(error).splitlines()
            continue
        for problem in _caught(choice.require):
            yield at(f"{kind}.{choice.name}") + problem
    for problem in _caught(partial(checkpoints.require, settings.train.encoder, settings.train.revision)):
        yield at("train.encoder") + problem
    if settings.train.trainer == "flair":
        for problem in _caught(partial(environments.require, "flair")):
            yield at("train.trainer") + problem
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
    if data.images_folder is not None and not data.images_folder.is_dir():
        yield "data.images", f"{data.images_folder}: no such folder; set it to null for a data set without pictures"


def _caught(action: Callable[[], object]) -> Iterator[str]:
    try:
        action()
    except UserError as error:
        yield from str(error).splitlines()
