"""`python -m pipeline.params check`: whether what params.yaml names is there, before hours are spent on it.

The types of params are pipeline/params.py's business and the options of an extractor its own; here all of them come
together with the disk: data files, checkpoints, free space. Every problem found is in the one message.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline import checkpoints, extractors, params, store
from pipeline.errors import UserError
from pipeline.params import KINDS, SPLITS, Params

_NEEDED_BYTES = 500_000_000  # of DVC's copies of outs, the tagger and its training checkpoints for a small encoder


def check(path: str | Path = "params.yaml") -> Params:
    """Load params and check what they name.

    Raises:
        UserError: with a line for every problem.
    """
    settings = params.load(path)
    problems = list(_problems(settings))
    if problems:
        raise UserError("\n".join(f"{path}: {problem}" for problem in problems))
    return settings


def _problems(settings: Params) -> Iterator[str]:
    yield from _data_problems(settings)
    for kind in KINDS:
        section = getattr(settings, kind).model_dump()
        yield from _caught(kind, lambda kind=kind, section=section: extractors.validate(kind, section))
    yield from _caught("train.encoder", lambda: checkpoints.require(settings.train.encoder, settings.train.revision))
    for folder in (Path.cwd(), store.default_folder()):
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < _NEEDED_BYTES:
            yield f"{folder}: {free / 1e6:,.0f} MB free, expected at least {_NEEDED_BYTES / 1e6:,.0f} MB"


def _data_problems(settings: Params) -> Iterator[str]:
    data = settings.data
    if not data.root.is_dir():
        yield f"data.root: {data.root}: no such folder"
        return
    for split in SPLITS:
        if not getattr(data, split):
            yield f"data.{split}: names no file"
        for file in data.files(split):
            if not file.is_file():
                yield f"data.{split}: {file}: no such file"
    if data.images_folder is not None and not data.images_folder.is_dir():
        yield f"data.images: {data.images_folder}: no such folder; set it to null for a data set without pictures"


def _caught(key: str, action: Callable[[], object]) -> Iterator[str]:
    try:
        action()
    except UserError as error:
        yield from (line if line.startswith(key) else f"{key}: {line}" for line in str(error).splitlines())


def main() -> None:
    """Command line: `check [FILE]`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.params", description="Work with params.yaml.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check", help="validate params and whatever they name")
    command.add_argument("file", type=Path, nargs="?", default=Path("params.yaml"))
    path = parser.parse_args().file
    check(path)
    print(f"{path}: valid, and what it names is there")
