"""What a checkpoint's folder may hold, looked at before any of it is loaded: no code, and no way out of the folder.

Whoever loads a checkpoint calls :func:`inspect` first, so that a library gets only folders whose every file is in
:func:`pipeline.core.checkpoints.digest`. Whether weights are whole is left to :mod:`pipeline.core.soundness`.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError

LOADED = (
    "*config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "chat_template.json",
    "chat_template.jinja",
)
"""What a model, tokenizer or processor is loaded from besides weights."""

_OTHERS = ("data_config.json",)
"""Called like a file that is loaded, but a list: what sentence-transformers says of its training data."""

# Stores whose files are called by their content, and which others link to: DVC's cache, git-annex, the hub's cache.
_STORES = re.compile(
    r"/files/md5/[0-9a-f]{2}/[0-9a-f]{30}$|/\.git/annex/objects/.+|/models--[^/]+/blobs/[0-9a-f]{40,64}$"
)


def inspect(folder: Path, name: str) -> dict[str, Any]:
    """Refuse a folder that would make a library run code, or read a file that is not one of the folder's own.

    Args:
        folder: the checkpoint's.
        name: what params or the command line call it.

    Returns:
        The content of config.json; nothing where there is none.

    Raises:
        UserError: a file or folder is a link that leads elsewhere, or no regular file; a JSON file names code, or a
            file elsewhere; a file that a model is loaded from is not JSON.
    """
    config: dict[str, Any] = {}
    found = []
    for path in sorted(_files(folder, name)):
        if path.suffix == ".json":
            value, objects = _read(path, name)
            found.append((path, value, objects))
            if path == folder / "config.json":
                config = value
    for path, value, objects in found:
        if path.name.endswith(".index.json"):
            _refuse_foreign_shards(path, value, name)
        for entry in objects:
            _refuse_code(path, entry, config.get("model_type") if entry is value else None, name)
            _refuse_names(path, entry, name)
    return config


def inspect_config(config: Path, name: str) -> None:
    """As :func:`inspect`, of a config.json alone, where the rest is not downloaded yet."""
    value, objects = _read(config, name)
    for entry in objects:
        _refuse_code(config, entry, value.get("model_type") if entry is value else None, name)
        _refuse_names(config, entry, name)


def never_ask() -> None:
    """Keep transformers from asking on the terminal whether to run a model's own code; it then refuses at once.

    Its answer would be read from stdin, where `ner.predict` has people's texts.
    """
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def is_plain(name: object) -> bool:
    """Whether a name can only be that of a visible file beside the one that names it."""
    return isinstance(name, str) and bool(name) and not name.startswith(".") and not set(name) & set("/\\\0")


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a link leads out of `folder`, other than to a store whose files are called by their content."""
    target = path.resolve()
    return not target.is_relative_to(folder.resolve()) and not _STORES.search(target.as_posix())


def _files(folder: Path, name: str) -> Iterator[Path]:
    """The folder's visible files, at any depth.

    Raises:
        UserError: as :func:`inspect`.
    """
    for place, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = [one for one in folders if not one.startswith(".")]
        for one in folders:
            path = Path(place, one)
            if path.is_symlink():
                raise UserError(f"checkpoint {name}: {path} is a linked folder; put a copy of it there, or remove it")
        for one in files:
            path = Path(place, one)
            if one.startswith("."):
                continue
            if path.is_symlink() and leads_out(path, folder):
                raise UserError(
                    f"checkpoint {name}: {path} is a link that leads out of the folder, to {path.resolve()}; put a "
                    "copy of the file there, or remove the link"
                )
            if not path.is_file():
                what = "a link to nothing" if path.is_symlink() else "no regular file"
                raise UserError(f"checkpoint {name}: {path} is {what}; copy or download the complete checkpoint")
            yield path


def _raise(error: OSError) -> None:
    raise UserError(f"{error.filename}: cannot be read: {error.strerror}; see that the folder may be read") from None


def _read(path: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A JSON file: its object, and all objects in it that say something of code or files, itself included.

    Raises:
        UserError: it is not JSON, or no object, although a model is loaded from it.
    """
    objects: list[dict[str, Any]] = []

    def note(entry: dict[str, Any]) -> dict[str, Any]:
        if not entry.keys().isdisjoint(_TELLING):
            objects.append(entry)
        return entry

    trouble = "not an object"
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_hook=note)
        if isinstance(value, dict):
            return value, objects
        if path.name in _OTHERS:
            return {}, objects
    except OSError as error:
        raise UserError(
            f"checkpoint {name}: {path}: cannot be read: {error.strerror}; see that it may be read"
        ) from None
    except (ValueError, RecursionError) as error:
        trouble = f"not JSON ({error or type(error).__name__})"
    if any(fnmatch(path.name, pattern) for pattern in (*LOADED, "*.index.json")):
        raise UserError(f"checkpoint {name}: {path.name} is {trouble}; copy or download the checkpoint again")
    return {}, objects


_FILES = ("fast_tokenizer_files", "transformers_weights")
_ATTENTION = ("attn_implementation", "_attn_implementation")
_TELLING = {"auto_map", *_FILES, *_ATTENTION}


def _refuse_code(path: Path, entry: Mapping[str, Any], model_type: object, name: str) -> None:
    """Refuse an object with `auto_map`.

    Many a published checkpoint still names code that has since become part of transformers; the message says so where
    the object is a file's outermost and transformers has the model's type itself.
    """
    code = entry.get("auto_map")
    if not isinstance(code, dict | list | str) or not code:
        return  # a vocabulary's word, whose value is its number
    named = ", ".join(sorted(map(str, code.values()))) if isinstance(code, dict) else str(code)
    trouble = f"checkpoint {name}: it needs its own code ({named}; auto_map in {path.name}), and code from a checkpoint"
    remedy = "choose another checkpoint"
    if model_type is not None:
        remedy = f"choose a checkpoint whose model_type, unlike {model_type!r}, is part of transformers"
        if _is_of_transformers(model_type):
            remedy = (
                f"transformers has code of its own for the type {model_type!r}: name a folder with a copy of the "
                f"checkpoint, without auto_map in its {path.name}"
            )
    raise UserError(f"{trouble} is never run here; {remedy}")


def _is_of_transformers(model_type: object) -> bool:
    """Whether transformers has the type itself; not where it is not installed, as for :mod:`ner.light`."""
    try:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    except ModuleNotFoundError:
        return False
    return model_type in CONFIG_MAPPING_NAMES


def _refuse_names(path: Path, entry: Mapping[str, Any], name: str) -> None:
    """Refuse names of files elsewhere, and attention that is fetched from the hub as code."""
    for key in _FILES:
        named = entry.get(key)
        for one in named if isinstance(named, list) else [named]:
            if isinstance(one, str) and not is_plain(one):
                raise UserError(
                    f"checkpoint {name}: {key} in {path.name} names {one}, which is not a file beside it; choose "
                    "another checkpoint"
                )
    for key in _ATTENTION:
        if "/" in str(entry.get(key, "")):
            raise UserError(
                f"checkpoint {name}: {key} in {path.name} names code on the hub ({entry[key]}), and code from a hub is "
                "never run here; choose another checkpoint"
            )


def _refuse_foreign_shards(path: Path, index: Mapping[str, Any], name: str) -> None:
    shards = index.get("weight_map")
    if not isinstance(shards, dict):
        raise UserError(f"checkpoint {name}: {path.name} has no weight_map; copy or download the checkpoint again")
    for shard in shards.values():
        if not is_plain(shard) or Path(shard).suffix not in (".safetensors", ".bin"):
            raise UserError(
                f"checkpoint {name}: {path.name} names the file of weights {shard!r}; expected the name of a "
                "*.safetensors beside it that is not hidden; choose another checkpoint"
            )
