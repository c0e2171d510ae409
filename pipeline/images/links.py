"""Where a link in a folder of pictures may lead: to what the tools that people keep data with put links for.

DVC's cache, the hub's cache and git-annex hold a file once, under its digest, and a link to it in its place. Those are
followed, as are links into folders that params name (``data.follow``); any other that leaves the folder is not.
"""

import os
from collections.abc import Iterator, Sequence
from configparser import Error as ConfigError
from configparser import RawConfigParser
from pathlib import Path

from platformdirs import site_config_dir, user_config_dir

_HUB_KINDS = ("datasets--", "models--", "spaces--")


class Links:
    """What links below a folder may lead to; asked once for a folder, not for each picture.

    Args:
        folder: the pictures' folder, already resolved.
        follow: other folders that links may lead into.
    """

    def __init__(self, folder: Path, follow: Sequence[Path] = ()) -> None:
        roots = [folder, *(Path(os.path.realpath(place.expanduser())) for place in follow), *_stores(folder)]
        self._roots = tuple(os.path.join(root, "") for root in roots)
        self._hub = os.path.join(os.path.realpath(_hub_cache()), "")

    def allow(self, target: str) -> bool:
        """Whether a picture's file, its path free of links, is one to read."""
        if target.startswith(self._roots):
            return True
        parts = target.removeprefix(self._hub).split("/") if target.startswith(self._hub) else []
        return len(parts) == 3 and parts[0].startswith(_HUB_KINDS) and parts[1] == "blobs"


def _stores(folder: Path) -> Iterator[Path]:
    """The stores of files that the folder, or the project that this process runs in, belongs to."""
    if (cache := dvc_cache()) is not None:
        yield cache
    for parent in (folder, *folder.parents):
        objects = parent / ".git" / "annex" / "objects"
        if objects.is_dir() and os.path.realpath(objects) == str(objects):  # no link itself, to anywhere
            yield objects
        if parent.name == "snapshots" and parent.parent.name.startswith(_HUB_KINDS):
            yield parent.parent / "blobs"


def _hub_cache() -> str:
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return os.path.expanduser(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))


def dvc_cache() -> Path | None:
    """DVC's cache of the project that the working folder is in, as its config files say; None outside of one.

    DVC itself takes half a second to import, and its config files are plain.
    """
    here = Path.cwd()
    project = next((place / ".dvc" for place in (here, *here.parents) if (place / ".dvc").is_dir()), None)
    if project is None:
        return None
    found = str(project / "cache")
    folders = (
        os.environ.get("DVC_SYSTEM_CONFIG_DIR") or site_config_dir("dvc", "iterative"),
        os.environ.get("DVC_GLOBAL_CONFIG_DIR") or user_config_dir("dvc", "iterative"),
        str(project),
    )
    for file in (*(os.path.join(place, "config") for place in folders), str(project / "config.local")):
        config = RawConfigParser(strict=False, allow_no_value=True)
        try:
            config.read(file, encoding="utf-8")
        except (ConfigError, UnicodeDecodeError):
            continue  # DVC says what is wrong with it
        given = (config.get("cache", "dir", fallback=None) or "").strip("\"'")
        if given:
            found = os.path.join(os.path.dirname(file), os.path.expanduser(given))
    return Path(os.path.realpath(found))
