"""Training by flair: the same labelled views in, the same folder with a tagger out, as :mod:`ner.training.run`.

Views are encoded and the tagger is set up and saved here; what lies between runs in the separate environment `flair`
(:mod:`ner.interop.flair.trainer`), as a process that gets a work folder and answers with one line per epoch.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from ner.decoding import choose_device
from ner.models.folder import quietly
from ner.training.callbacks import Curves, ShowProgress
from ner.training.examples import check_labelled, encode_views, warn_without_entities
from ner.training.run import finish, set_up, summary, take_finished
from ner.views import ViewEncoder
from pipeline.core.errors import UserError
from pipeline.core.files import write_json, write_jsonl
from pipeline.core.records import View
from pipeline.settings.training import TrainParams


def train(
    params: TrainParams,
    *,
    python: Path,
    encoder: Path | str,
    train: Sequence[View],
    dev: Sequence[View],
    output: Path,
    work: Path,
    curves: Path | None,
    device: str = "auto",
) -> dict[str, Any]:
    """As :func:`ner.training.run.train`, by flair's ModelTrainer; a killed training starts over.

    Args:
        python: the Python of the environment `flair`.

    Raises:
        UserError: as there; an option that flair's trainer cannot honour; a post longer than an encoder window.
    """
    check_labelled("train", train)
    check_labelled("dev", dev)
    chosen = choose_device(device)
    if params.precision == "bfloat16" and chosen.type != "cpu":
        raise UserError(
            f"train.precision: found bfloat16 on {chosen.type}, where flair's mixed precision is float16; "
            "expected float32, or train.trainer: transformers"
        )
    work = work.absolute()
    if (finished := take_finished(work, output, curves)) is not None:
        return summary(finished)
    warn_without_entities(dev)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with quietly():
        model, tokenizer, views = set_up(params, encoder, train)
        start, best = work / "start", work / "best.safetensors"
        model.save_pretrained(start)
        tokenizer.save_pretrained(start)
        files = {"train": work / "train.jsonl", "dev": work / "dev.jsonl"}
        write_jsonl(files["train"], encoded_rows(train, views, params))
        write_jsonl(files["dev"], encoded_rows(dev, views, params))
        job = work / "job.json"
        places = {name: str(path) for name, path in {"start": start, "best": best, **files}.items()}
        write_json(job, {"params": params.model_dump(mode="json"), "device": str(chosen), **places})
        state = _run(python, job, params, curves)
        model.load_state_dict(safetensors.torch.load_file(best))
        finish(model, tokenizer, work, output, state)
    return summary(state)


def encoded_rows(posts: Sequence[View], views: ViewEncoder, params: TrainParams) -> Iterator[dict[str, Any]]:
    """One row per post: its tokens and labels, and of each trained view the sub-tokens and each token's first.

    Raises:
        UserError: a post is longer than an encoder window.
    """
    encoded = encode_views(params.trained_views, views, posts)
    for place, post in enumerate(posts):
        row: dict[str, Any] = {"tokens": post.tokens, "labels": post.labels}
        for name, all_views in encoded.items():
            view = all_views[place]
            if len(view.windows) > 1:
                raise UserError(
                    f"train.trainer: post {post.id} needs {len(view.windows)} encoder windows of "
                    f"{params.max_length} sub-tokens, which flair would cut differently; use "
                    "trainer: transformers, or leave the post out"
                )
            row[name] = {"input_ids": view.windows[0], "firsts": view.positions}
        yield row


def _run(python: Path, job: Path, params: TrainParams, curves: Path | None) -> TrainerState:
    """Run flair's part, and tell of each epoch as our own trainer does."""
    state, control = TrainerState(log_history=[]), TrainerControl()
    callbacks: list[TrainerCallback] = [ShowProgress(), *([Curves(curves)] if curves is not None else [])]
    arguments: Any = SimpleNamespace(num_train_epochs=params.epochs)  # all that the two ask for
    for callback in callbacks:
        callback.on_train_begin(arguments, state, control)
    # Its standard input is a lifeline: it ends where this process does, however that ends.
    process = subprocess.Popen(
        [python, "-m", "ner.interop.flair.trainer", job],
        encoding="utf-8",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    with process:
        try:
            for line in process.stdout or ():
                logs = json.loads(line)
                state.epoch = logs["epoch"]
                state.log_history.append(logs)
                for callback in callbacks:
                    callback.on_evaluate(arguments, state, control)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise UserError(
            f"train.trainer: flair's part of the training ended with status {process.returncode}, for the reason above"
        )
    for callback in callbacks:
        callback.on_train_end(arguments, state, control)
    return state
