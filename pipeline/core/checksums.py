"""checksums.json: the SHA-256 of each file of a folder that was saved here, so that it is loaded as it was saved.

`python -m pipeline.checkpoints seal FOLDER` writes it again where a file was changed on purpose.
"""

import json
from fnmatch import fnmatch
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.files import follow_umask, write_json
from pipeline.core.hashes import file_digest
from pipeline.core.pages import refuse_lost_pages
from pipeline.core.trust import LOADED

FILE = "checksums.json"
_READ = (*LOADED, "*.safetensors", "*.safetensors.index.json", "*.onnx", "*.onnx.data")


def seal(folder: Path) -> Path:
    """Write the checksums of a folder's files, without its card and hidden files; return their file.

    Files that a library has made readable for their owner alone get the rights that any new file has.
    """
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_summed(path.name)]
    for path in files:
        follow_umask(path)
    write_json(folder / FILE, {path.name: file_digest(path) for path in files})
    return folder / FILE


def verify(folder: Path, name: str) -> None:
    """Check a folder's files against its checksums; of one without them, whether pages of its weights were lost.

    Args:
        folder: a tagger's or another checkpoint's.
        name: what params or the command line call it.

    Raises:
        UserError: a file is missing, is not what was saved, or was added and would be loaded; all of them are named.
            Without checksums, as :func:`pipeline.core.pages.refuse_lost_pages`.
    """
    try:
        saved = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        refuse_lost_pages(folder, name)
        return
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"checkpoint {name}: {FILE} cannot be read: {error}; {_remedy(folder)}") from None
    if not isinstance(saved, dict):
        raise UserError(f"checkpoint {name}: {FILE} is not an object of names and sums; {_remedy(folder)}")
    added = {
        path.name
        for path in folder.iterdir()
        if path.name not in saved and _is_summed(path.name) and any(fnmatch(path.name, read) for read in _READ)
    }
    troubles = [f"{file} was added" for file in sorted(added)]
    for file, wanted in sorted(saved.items()):
        path = folder / file
        if "/" in file or not path.is_file():
            troubles.append(f"{file} is missing")
        elif file_digest(path) != wanted:
            troubles.append(f"{file} has changed")
    if troubles:
        raise UserError(f"checkpoint {name}: not as it was saved, by {FILE}: {', '.join(troubles)}; {_remedy(folder)}")


def _is_summed(name: str) -> bool:
    return name != FILE and not name.startswith(".") and not name.endswith(".md")


def _remedy(folder: Path) -> str:
    return (
        "copy, download or train it again; if you have changed it on purpose: "
        f"python -m pipeline.checkpoints seal {folder}"
    )
