"""Which files of a folder are pictures, and what is left out of it, for whoever has no data set that names them."""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.core.names import has_unpaired_surrogate

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif",
)  # fmt: skip
"""The names that are taken for pictures here; elsewhere the content alone decides."""

_NAMED = 5  # suffixes in a message


class Listing(NamedTuple):
    """The pictures below a folder, by name and sorted, and what else is there, in words; empty where nothing is."""

    names: list[str]
    left_out: str


def listing(folder: Path) -> Listing:
    """Tell the pictures below a folder, by their suffix, from what is left out.

    Left out are other files, hidden files and folders, links to folders, folders that cannot be read, and names that
    are not UTF-8, which no row can hold.

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    names: list[str] = []
    others: Counter[str] = Counter()
    hidden_files = hidden_folders = linked = not_utf8 = 0
    unread: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=unread.append):
        below = Path(place).relative_to(folder)
        seen = sorted(name for name in folders if not name.startswith("."))
        hidden_folders += len(folders) - len(seen)
        unlinked = [name for name in seen if not os.path.islink(os.path.join(place, name))]
        linked += len(seen) - len(unlinked)
        folders[:] = [name for name in unlinked if not has_unpaired_surrogate(name)]
        not_utf8 += len(unlinked) - len(folders)
        for name in files:
            if has_unpaired_surrogate(name):
                not_utf8 += 1
            elif name.startswith("."):
                hidden_files += 1
            elif name.lower().endswith(SUFFIXES):
                names.append((below / name).as_posix())
            else:
                others[os.path.splitext(name)[1].lower() or "no suffix"] += 1
    left_out = ", ".join(
        part
        for part in (
            _others(others),
            _counted(hidden_files, "hidden file"),
            _counted(hidden_folders, "hidden folder"),
            _counted(linked, "linked folder"),
            _counted(len(unread), "folder", " that cannot be read"),
            _counted(not_utf8, "name", " that is not UTF-8" if not_utf8 == 1 else " that are not UTF-8"),
        )
        if part
    )
    if not names:
        found = f"; found {left_out}" if left_out else ""
        raise UserError(f"{folder}: no pictures; expected files named {', '.join(SUFFIXES)}{found}")
    return Listing(sorted(names), left_out)


def list_pictures(folder: Path) -> list[str]:
    """Names of the pictures below a folder; raises as :func:`listing`."""
    return listing(folder).names


def _others(suffixes: Counter[str]) -> str:
    count = suffixes.total()
    named = ", ".join([name for name, _ in suffixes.most_common(_NAMED)] + ["…"] * (len(suffixes) > _NAMED))
    return _counted(count, "file", f" that {'is no picture' if count == 1 else 'are no pictures'} ({named})")


def _counted(count: int, what: str, more: str = "") -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}{more}" if count else ""
