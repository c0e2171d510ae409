"""Folders outside the workspace: where the store lies, and the environment variables that say so.

What lies in them is left to those who ask, such as :mod:`pipeline.core.store`.
"""

import os
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.core.errors import UserError

VARIABLE = "SIGHTREAD_STORE"


def default_folder() -> Path:
    """The folder named by ``SIGHTREAD_STORE``, else ``sightread`` in the user's cache folder.

    The latter is ``$XDG_CACHE_HOME/sightread`` or ``~/.cache/sightread``, on macOS ``~/Library/Caches/sightread``.

    Raises:
        UserError: the variable names no absolute folder, or it is not set and the user has no home folder.
    """
    if (folder := given_folder(VARIABLE)) is not None:
        return folder
    try:
        return user_cache_path("sightread", appauthor=False)
    except RuntimeError:
        raise UserError(
            f"this user has no home folder, so there is no default place for the store; set {VARIABLE} to a folder "
            "that can be written"
        ) from None


def given_folder(variable: str) -> Path | None:
    """The folder that an environment variable names; None if it is unset or empty.

    Raises:
        UserError: it names no absolute folder.
    """
    given = os.environ.get(variable)
    if not given:
        return None
    folder = Path(os.path.expanduser(given))  # Path.expanduser raises for a user without a home folder
    if not folder.is_absolute():
        raise UserError(f"{variable}={given}: expected an absolute folder, as stages run in several folders")
    return folder


def make(folder: Path) -> None:
    """Create `folder`, with its parents, if it is missing.

    Raises:
        UserError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: the store's folder cannot be created ({error.strerror}); set {VARIABLE} to a folder "
            "that can be written"
        ) from None
