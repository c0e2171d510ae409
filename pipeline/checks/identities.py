"""The identity of everything that params name and a stage loads: checkpoints, and the pins of separate environments.

A local file or folder is called by the digest of its content, a repository of the hub by its name and the commit that
the local cache holds. Nothing is downloaded and no model is loaded.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from pydantic import BaseModel

from pipeline.core import checkpoints, environments
from pipeline.core.hashes import file_digest
from pipeline.core.kinds import KINDS
from pipeline.extractors import registry
from pipeline.extractors.base import Options, source_of
from pipeline.settings.params import Params

STAGES = ("posts", "images", *KINDS, "views", "train", "evaluate", "report")
"""The stages that depend on a file of `check`, in the pipeline's order."""

_NAMED = {"config", "encoder", "model", "models", "path", "tokenizer", "weights"}
"""Keys whose values are files, folders or names on the hub. Under any other, a value with a / may be a file as well."""


class Identity(TypedDict):
    """What a stage loads, as JSON."""

    checkpoints: dict[str, str]
    """Dotted key in params.yaml → identity of the checkpoint named there."""
    source: NotRequired[str]
    """Of an extractor of the user's own, the digest of its file."""
    environment: dict[str, str] | None
    """Name and digest of the pins (``pins``) of the separate environment that the stage runs in."""


def identities(settings: Params) -> dict[str, Identity]:
    """Stage → what it loads, for every stage; an empty one for stages that load nothing.

    Raises:
        UserError: what params name is not there; the message says how to get it.
    """
    found: dict[str, Identity] = {stage: {"checkpoints": {}, "environment": None} for stage in STAGES}
    for kind in KINDS:
        choice = registry.choose(kind, settings.extraction(kind))
        for name, options in ((choice.name, choice.options), (registry.ATTRIBUTES, choice.attributes)):
            if options is not None:
                left_out = options.NO_FILES if isinstance(options, Options) else frozenset[str]()
                values = (
                    options.model_dump(mode="json", exclude=set(left_out))
                    if isinstance(options, BaseModel)
                    else options
                )
                found[kind]["checkpoints"] |= dict(_checkpoints(values, f"{kind}.{name}.", settings.data.root))
        if choice.cls is not None and (source := source_of(choice.cls)) is not None:
            found[kind]["source"] = source
        if choice.interpreter is not None:
            found[kind]["environment"] = _environment(choice.interpreter)
    train = settings.train
    encoder = {"encoder": train.encoder, "revision": train.revision}
    found["train"]["checkpoints"] = dict(_checkpoints(encoder, "train.", settings.data.root))
    if (vectors := train.word_vectors) is not None:
        found["train"]["checkpoints"]["train.iie4mner.word_vectors"] = f"sha256:{file_digest(vectors)}"
    for number, folder in enumerate(train.teacher.folders):
        found["train"]["checkpoints"][f"train.teacher.taggers.{number}"] = f"sha256:{checkpoints.digest(folder)}"
    if train.trainer == "flair":
        found["train"]["environment"] = _environment("flair")
    return found


def _checkpoints(options: Mapping[str, Any], prefix: str, data: Path) -> Iterator[tuple[str, str]]:
    """(Dotted key, identity) of every option that names a file, a folder or a repository of the hub.

    What lies below the data set's folder `data` is left out: stages depend on that folder as it is.
    """
    for key, value in options.items():
        if isinstance(value, Mapping):
            yield from _checkpoints(value, f"{prefix}{key}.", data)
        if isinstance(value, list):
            for number, each in enumerate(value):
                yield from ((f"{name}.{number}", found) for name, found in _checkpoints({key: each}, prefix, data))
        if not isinstance(value, str) or not value or (key not in _NAMED and "/" not in value):
            continue
        place = Path(value).expanduser()
        if place.exists():
            if not place.resolve().is_relative_to(data.resolve()):
                content = checkpoints.digest(place) if place.is_dir() else file_digest(place)
                yield f"{prefix}{key}", f"sha256:{content}"
        elif key in _NAMED and checkpoints.is_hub_name(value):
            yield f"{prefix}{key}", checkpoints.cached_identity(value, options.get("revision"))


def _environment(name: str) -> dict[str, str]:
    return {"name": name, "pins": environments.environment(name).digest()}
