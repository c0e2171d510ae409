"""Finds a model's files: in a local folder, or in the hub's cache, which is filled on first use.

Adapters always get a folder of safetensors files from here, so they need not handle the hub or pickles; a checkpoint
that requires its own code, or leads out of its folder, is refused (pipeline/core/trust.py). Single files of weights are
read and converted in pipeline/core/weights.py.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pipeline.core import checksums, trust
from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest

_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt")
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"  # whole, or what names its shards
_DOWNLOADED = ("*.safetensors", "*.json", "*.txt", "*.model", "chat_template.jinja")
_SKIPPED = ("onnx/*", "openvino/*", "*/*.json")
_UNHASHED = {".md", ".gitattributes"}  # files that no model reads
_MAX_NAMED = 4  # files that a message names


@dataclass(frozen=True)
class Checkpoint:
    """A model's files: their folder, and an identity of their content for fingerprints."""

    folder: Path
    identity: str


def resolve(model: str, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint, and download it if it is the name of a hub repository that is not in the cache.

    Args:
        model: a folder, or the name of a hub repository.
        revision: commit, branch or tag on the hub; null for local folders.

    Returns:
        The folder and its identity: ``sha256:…`` over a local folder's files, ``name@commit`` for the hub.

    Raises:
        UserError: it does not exist, cannot be downloaded, lacks safetensors weights, needs its own code, leads out of
            its folder, or is not as it was saved.
    """
    if Path(model).expanduser().is_dir() or not is_hub_name(model):
        folder = _local(model, revision)
        return Checkpoint(folder, f"sha256:{digest(folder)}")
    snapshot = _snapshot(model, revision)
    _require_snapshot(snapshot, model)
    trust.inspect(snapshot, model)
    checksums.verify(snapshot, model)
    return Checkpoint(snapshot, f"{model}@{snapshot.name}")


def cached_identity(model: str, revision: str | None = None) -> str:
    """The identity that :func:`resolve` gives a hub repository, as far as the local cache tells; downloads nothing.

    Returns:
        ``name@commit``; where the cache has nothing of it, ``name@revision``, or the name alone without a revision.
    """
    cached = _cached(model, revision)
    known = revision if cached is None else cached.name
    return f"{model}@{known}" if known else model


def require(model: str, revision: str | None = None) -> None:
    """Check that :func:`resolve` would find the checkpoint, without downloading weights, or reading those of the cache.

    Raises:
        UserError: as :func:`resolve`, or a hub repository is neither complete in the cache nor reachable.
    """
    if Path(model).expanduser().is_dir() or not is_hub_name(model):
        _local(model, revision)
        return
    cached = _cached(model, revision)
    if cached is not None and not _missing(cached, model):
        trust.inspect(cached, model)
        return
    from huggingface_hub import HfApi, hf_hub_download

    wanted = _wanted(cached, revision)
    try:
        HfApi().model_info(model, revision=wanted, timeout=10)  # a config may be cached, and the hub gone
        config = hf_hub_download(model, "config.json", revision=wanted)
    except _hub_errors() as error:
        if cached is None or _is_refused(error):
            raise _unavailable(model, revision, error) from None
        _require_snapshot(cached, model)
    else:
        trust.inspect_config(Path(config), model)


def _local(model: str, revision: str | None) -> Path:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"checkpoint {model}: no such folder; put the checkpoint there, or name a hub repository "
            "(such as Salesforce/blip-image-captioning-base)"
        )
    if revision is not None:
        raise UserError(f"checkpoint {model}: a local folder has no revision; set revision: null")
    trust.inspect(folder, model)
    _require_weights(folder, model, _lacking_shards(folder), "copy or download the complete checkpoint")
    checksums.verify(folder, model)
    return folder


def is_hub_name(model: str) -> bool:
    """Whether `model` can be a hub repository: `name` or `owner/name`, whose first part is not a local folder."""
    return bool(_HUB_NAME.match(model)) and not Path(model.split("/")[0]).is_dir()


def _cached(model: str, revision: str | None) -> Path | None:
    """The cached snapshot of a hub repository, complete or not."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as error:
        return Path(error.snapshot_path)
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _missing(snapshot: Path, model: str) -> list[str]:
    """Needed files that the cache lacks, as far as the weights' index and the hub's list of files show."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        listed = {file.path for file in get_cached_repo_tree(model, revision=snapshot.name) if "/" not in file.path}
    except CachedRepoTreeNotFoundError:  # fetched file by file, or by an older version of the hub's library
        listed = set()
    needed = {"config.json", *(name for name in listed if any(fnmatch(name, pattern) for pattern in trust.LOADED))}
    if not (snapshot / _WEIGHTS).is_file() and not (snapshot / _INDEX).is_file():
        named = listed & {_WEIGHTS, _INDEX}
        if named or all("-of-" in file.name for file in snapshot.glob("*.safetensors")):  # none, or shards alone
            needed |= named or {_WEIGHTS}
    return sorted({*_lacking_shards(snapshot), *(name for name in needed if not (snapshot / name).is_file())})


def _snapshot(model: str, revision: str | None) -> Path:
    """The cached snapshot of a hub repository, after an attempt to download the files that it lacks.

    Raises:
        UserError: nothing is cached and the download failed.
    """
    from huggingface_hub import snapshot_download

    cached = _cached(model, revision)
    if cached is not None and not _missing(cached, model):
        return cached
    try:
        return Path(
            snapshot_download(
                model,
                revision=_wanted(cached, revision),
                allow_patterns=list(_DOWNLOADED),
                ignore_patterns=list(_SKIPPED),
            )
        )
    except _hub_errors() as error:
        cached = _cached(model, revision)
        if cached is None or _is_refused(error):
            raise _unavailable(model, revision, error) from None
        return cached


def _wanted(cached: Path | None, revision: str | None) -> str | None:
    """The revision to download: that of weights already cached, so that repeated runs use the same weights."""
    return cached.name if cached is not None and any(cached.glob("*.safetensors")) else revision


def _hub_errors() -> tuple[type[Exception], ...]:
    """Errors of a download: no connection, no access, no such repository, a full disk, a proxy's page instead."""
    from huggingface_hub.errors import HTTPError as ConnectionFailure  # type: ignore[attr-defined]  # its HTTP library's

    return ConnectionFailure, OSError, ValueError


def _unavailable(model: str, revision: str | None, error: Exception) -> UserError:
    at = f" --revision {revision}" if revision else ""
    return UserError(
        f"checkpoint {model}{at}: neither a local folder nor in the cache, and {_refusal(model, error)}. With internet "
        f"access: hf download {model}{at} --local-dir checkpoints/{model.split('/')[-1]}; then name that folder"
    )


def _is_refused(error: Exception) -> bool:
    """Whether the hub gives the files to others, so that no better connection helps."""
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError)


def _refusal(model: str, error: BaseException) -> str:
    """Why the hub gave nothing, and what to do."""
    from huggingface_hub import constants, errors

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE keeps this from asking the hub: unset it to have it downloaded"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the hub gives it to those alone who have accepted its conditions: accept them on its page, {model}, and "
            "log in (`hf auth login`)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has no such revision of it: check the revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such repository: check the name; a private one needs `hf auth login`"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return "the repository has no config.json, so it is no checkpoint of transformers: choose another"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk of the cache is full: make room, or set HF_HOME to a folder elsewhere"
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # what went wrong before the cache was looked at
    return (
        f"the download failed ({type(error).__name__}): check the connection and the name; a private repository needs "
        "`hf auth login`"
    )


def _lacking_shards(folder: Path) -> list[str]:
    """Files of weights that the folder's index names but the folder lacks."""
    if (folder / _WEIGHTS).is_file():  # is loaded even if there is an index
        return []
    try:
        shards = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []  # no index, or loading the model will report it
    return sorted({str(name) for name in shards if not (folder / str(name)).is_file()})


def _named(files: Sequence[str]) -> str:
    more = f" and {len(files) - _MAX_NAMED} more files" if len(files) > _MAX_NAMED else ""
    return ", ".join(files[:_MAX_NAMED]) + more


def _require_snapshot(snapshot: Path, model: str) -> None:
    _require_weights(
        snapshot,
        model,
        _missing(snapshot, model),
        f"with internet access, run: hf download {model} --revision {snapshot.name}",
    )


def _require_weights(folder: Path, model: str, lacking: Sequence[str], remedy: str) -> None:
    has_weights = any(folder.glob("*.safetensors"))
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles and not has_weights:
        raise UserError(
            f"checkpoint {model}: its weights are a pickle ({pickles[0]}), which can run code when it is loaded; "
            f"convert them: python -m pipeline.checkpoints convert {folder}"
        )
    if lacking:
        raise UserError(f"checkpoint {model}: {folder} lacks {_named(lacking)}; {remedy}")
    if not has_weights:
        raise UserError(
            f"checkpoint {model}: no *.safetensors in {folder}; found "
            f"{', '.join(sorted(file.name for file in folder.iterdir())[:8]) or 'nothing'}"
        )


def digest(folder: str | os.PathLike[str]) -> str:
    """SHA-256 of names and contents of a folder's files, without model cards, checksums and hidden files."""
    total = hashlib.sha256()
    for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        name = file.relative_to(folder)
        if file.suffix in _UNHASHED or file.name == checksums.FILE or any(part.startswith(".") for part in name.parts):
            continue
        total.update(f"{name.as_posix()}\0{file_digest(file)}\n".encode())
    return total.hexdigest()
