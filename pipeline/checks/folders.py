"""What in the folders that stages depend on DVC would trip over: files of its own, links to folders, pipes, odd names.

Looked at are folders, not what is in pictures, and of a large data set the upper ones: some thousand folders and some
hundred thousand names take a second.
"""

import os
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pipeline.core.kinds import KINDS
from pipeline.core.names import has_unpaired_surrogate
from pipeline.settings.params import Params

CHECKPOINTS = Path("checkpoints")
"""The folder that the stage `check` depends on."""

MOST_FOLDERS = 5_000
MOST_NAMES = 200_000

_OF_TOOLS = {".git", ".hg", ".dvc"}  # DVC passes over them
_NAMED = 3  # in a message


class Finding(NamedTuple):
    """What is wrong with a folder that the dotted key `key` names; `certain` if no run can go well."""

    key: str
    problem: str
    certain: bool


def findings(settings: Params) -> Iterator[Finding]:
    """What DVC would trip over, in the data set's folder and on the way to checkpoints."""
    root = settings.data.root
    links, endless, not_utf8 = [], [], []
    for folder, linked, no_files, odd in _walk(root):
        links += linked
        endless += no_files
        not_utf8 += odd
        if os.path.lexists(folder / ".dvcignore"):
            yield Finding(
                "data.root",
                f"{folder / '.dvcignore'}: DVC reads no folder that such a file lies in, since it would miss changes "
                "of what the file names; move its lines to .dvcignore beside dvc.yaml, and remove it",
                True,
            )
        if os.path.lexists(folder / "dvc.yaml") and folder.resolve().is_relative_to(Path.cwd().resolve()):
            yield Finding(
                "data.root",
                f"{folder / 'dvc.yaml'}: `dvc repro` runs the stages of every dvc.yaml of the project, so the data "
                "set's commands too; remove or rename it",
                True,
            )
    pictures = settings.data.images_folder
    if settings.data.listing is not None and pictures is not None and pictures.resolve().is_relative_to(root.resolve()):
        yield Finding(
            "data.listing",
            f"{pictures}: the pictures lie below data.root, so that DVC reads them all the same, too; "
            "move the folder out of it",
            False,
        )
    if links:
        yield Finding("data.root", _unseen(links), False)
    if endless:
        yield Finding("data.root", _endless(endless), True)
    if not_utf8:
        yield Finding("data.root", _odd(not_utf8), True)
    looked = list(_walk(CHECKPOINTS))
    if endless := [place for each in looked for place in each.no_files]:
        yield Finding(str(CHECKPOINTS), _endless(endless), True)
    if not_utf8 := [place for each in looked for place in each.not_utf8]:
        yield Finding(str(CHECKPOINTS), _odd(not_utf8), True)
    for folder in settings.train.teacher.folders:
        if folder.is_dir() and not folder.resolve().is_relative_to(CHECKPOINTS.resolve()):
            yield Finding(
                "train.teacher.taggers",
                f"{folder}: DVC sees no change there unless params.yaml changes as well; put it into {CHECKPOINTS}/",
                False,
            )
    for key, place in _checkpoints(settings):
        if link := _linked(place):
            yield Finding(key, _unseen([link]), False)


class _Looked(NamedTuple):
    """A folder; in it the links to folders, what is no file, and the names that are not UTF-8."""

    folder: Path
    linked: list[Path]
    no_files: list[Path]
    not_utf8: list[Path]


def _named(places: list[Path]) -> str:
    return ", ".join([str(place) for place in places[:_NAMED]] + ["…"] * (len(places) > _NAMED))


def _endless(places: list[Path]) -> str:
    what = "a named pipe, socket or device" if len(places) == 1 else f"{len(places):,} named pipes, sockets or devices"
    return (
        f"{_named(places)}: {what}, which `dvc repro` opens like every file there, and would wait for or fail on; move "
        "it elsewhere"
    )


def _odd(places: list[Path]) -> str:
    what = "a name that is" if len(places) == 1 else f"{len(places):,} names that are"
    return f"{_named(places)}: {what} not UTF-8, on which `dvc repro` fails; rename what bears it"


def _unseen(links: list[Path]) -> str:
    what = "a link to a folder" if len(links) == 1 else f"{len(links):,} links to folders"
    return (
        f"{_named(links)}: {what}, into which DVC does not look, so that a change there runs no stage again; put the "
        "folder itself in its place, or run `dvc repro --force` after a change"
    )


def _walk(root: Path) -> Iterator[_Looked]:
    """Folders below `root`, itself among them, upper ones first."""
    waiting, names = deque([root]), MOST_NAMES
    for _ in range(MOST_FOLDERS):
        if not waiting:
            return
        folder = waiting.popleft()
        linked, no_files, not_utf8 = [], [], []
        try:
            with os.scandir(folder) as entries:
                for entry in islice(entries, names):
                    names -= 1
                    if has_unpaired_surrogate(entry.name):
                        not_utf8.append(folder / entry.name)
                    if entry.is_dir():
                        if entry.is_symlink():
                            linked.append(folder / entry.name)
                        elif entry.name not in _OF_TOOLS:
                            waiting.append(folder / entry.name)
                    elif not entry.is_file() and os.path.exists(folder / entry.name):  # else a link to nothing
                        no_files.append(folder / entry.name)
        except OSError:
            continue  # DVC says so, of the folder that it was to read
        yield _Looked(folder, sorted(linked), sorted(no_files), sorted(not_utf8))


def _checkpoints(settings: Params) -> Iterator[tuple[str, str]]:
    """(Dotted key, value) of every option in use that may be a checkpoint's folder."""
    for kind in KINDS:
        section = settings.extraction(kind)
        name = section["extractor"]
        options = section.get(name) if name else None
        if isinstance(options, Mapping):
            yield from ((f"{kind}.{name}.{key}", value) for key, value in options.items() if isinstance(value, str))
    yield "train.encoder", settings.train.encoder


def _linked(value: str) -> Path | None:
    """The link to a folder, below the folder of checkpoints, that leads to `value`."""
    place = Path(value)
    if place.is_absolute() or place.parts[:1] != CHECKPOINTS.parts or ".." in place.parts:
        return None
    ways = [place, *place.parents][: len(place.parts) - 1]
    return next((way for way in reversed(ways) if way.is_symlink() and way.is_dir()), None)
