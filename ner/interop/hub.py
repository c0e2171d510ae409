"""Sending a tagger to the hub: its weights, config and tokenizer, and a card with its scores; nothing else.

`python -m ner.publish models/tagger OWNER/NAME` gathers the files in a new folder and sends that; with
`--dry-run FOLDER` they stay there, to be looked at and loaded. The card's text is :mod:`ner.interop.model_card`'s.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.errors import HTTPError as ConnectionFailure  # type: ignore[attr-defined]  # its HTTP library's
from huggingface_hub.utils._validators import validate_repo_id

from ner.models.folder import ONNX_GRAPH, load_config
from pipeline.core import checkpoints, checksums
from pipeline.core.errors import UserError
from pipeline.core.files import atomic_write
from pipeline.core.records import Evaluation

CARD = "README.md"  # as the hub calls it
SENT = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "training.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
)
"""The files of a tagger, as transformers names them."""


def gather(tagger: Path, target: Path, card: str) -> list[Path]:
    """Copy a tagger's files to a new or empty folder, and write its card there.

    Returns:
        The names of files that were left out, as they are not a tagger's.

    Raises:
        UserError: `tagger` is not a tagger's folder, is an export, or has a link that leads out of it; `target` is not
            empty.
    """
    if (tagger / ONNX_GRAPH).exists():
        raise UserError(
            f"{tagger}: a tagger exported to ONNX; publish the folder that it was made from, which whoever "
            "loads it can export"
        )
    load_config(tagger, "model*.safetensors")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: not empty; name a new folder")
    target.mkdir(parents=True, exist_ok=True)
    files = sorted({file for pattern in SENT for file in tagger.glob(pattern) if file.is_file()})
    for file in files:
        shutil.copyfile(file, target / file.name)  # the content, where DVC has put a link to its cache
    checksums.seal(target)
    with atomic_write(target / CARD) as stream:
        stream.write(card)
    return sorted(
        file.relative_to(tagger) for file in set(tagger.iterdir()) - {*files, tagger / CARD, tagger / checksums.FILE}
    )


def read_evaluation(tagger: Path, metrics: Path) -> tuple[Evaluation, dict[str, Any] | None]:
    """The scores that the evaluate stage measured of this tagger, and its params where the record of its run has them.

    Raises:
        UserError: there are none, or they are another tagger's.
    """
    scores, run = metrics / "evaluation.json", metrics / "runs" / "evaluate.json"
    remedy = "run dvc repro evaluate, or publish without scores: --no-scores"
    for path in (scores, run):
        if not path.is_file():
            raise UserError(f"{path}: no such file; {remedy}")
    try:
        evaluation, scored = (json.loads(path.read_text(encoding="utf-8")) for path in (scores, run))
    except ValueError as error:
        raise UserError(f"{metrics}: not JSON ({error}); {remedy}") from None
    if scored.get("tagger") != checkpoints.digest(tagger):
        raise UserError(f"{scores}: these are the scores of another tagger than {tagger}; {remedy}")
    return evaluation, scored.get("evaluated")


def check_name(repository: str) -> None:
    """Check a repository's name.

    Raises:
        UserError: the hub would not accept it.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError:
        well_formed = False
    else:
        well_formed = repository.count("/") == 1
    if not well_formed:
        raise UserError(
            f"{repository!r}: not a name for the hub; expected OWNER/NAME of letters, digits, -, _ and . "
            "(no -- or .., at most 96 characters)"
        )


def send(folder: Path, repository: str, *, private: bool) -> str:
    """Make the repository, where there is none yet, and send a folder as one commit; return its address.

    Raises:
        UserError: no token, no right to write there, the hub cannot be reached, or the repository is public where a
            private one is wanted.
    """
    if get_token() is None:
        raise UserError(
            "no token for the hub: run hf auth login, or set HF_TOKEN; to look at what would be sent: --dry-run FOLDER"
        )
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(
                f"{repository}: is there already, and public; nothing was sent. Name another one, make it "
                "private on the hub, or leave out --private"
            )
        done = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Publish a tagger",
            delete_patterns=[*SENT, checksums.FILE],
        )  # weights of an earlier one, in other shards
        return done.commit_url
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no status"
        raise UserError(
            f"{repository}: the hub refused it ({status}: {error.server_message or type(error).__name__}); "
            "see that the token (hf auth whoami) may write there"
        ) from None
    except (ConnectionFailure, OSError) as error:  # OSError: offline mode
        raise UserError(
            f"{repository}: the hub cannot be reached ({type(error).__name__}: {error}); see that there is "
            "internet and HF_HUB_OFFLINE is not set"
        ) from None
