"""What a training does beside its steps: marks checkpoints as complete, stops early, shows progress, draws curves.

Hooks of transformers' Trainer, which flair's trainer drives as well (:mod:`ner.interop.flair.training`). Steps and
evaluation are left to :mod:`ner.training.trainer`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ner.training import processes, work_folder
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress

DRAWN = (
    *(f"train/{name}" for name in ("loss", "nll_text_only", "nll_cross_modal", "alignment", "teacher")),
    *(f"dev/f1_{view}" for view in ("text_only", "cross_modal")),
)
"""The curves that dvc.yaml draws; of those that a training does not have there is a file without values."""

_NOT_LOSSES = ("epoch", "step", "grad_norm", "learning_rate")  # of what the Trainer logs beside the loss and its terms


def patience_is_out(state: TrainerState, patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no better dev score than one above 0."""
    scores = [logs["eval_f1"] for logs in state.log_history if "eval_f1" in logs]
    best = max(scores, default=0.0)
    return patience is not None and best > 0 and len(scores) - 1 - scores.index(best) >= patience


class MarkComplete(TrainerCallback):
    """Marks a checkpoint as whole once all of it is written (:func:`ner.training.work_folder.mark_complete`)."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        processes.wait()  # each process writes the state of its own random numbers
        if processes.is_first():
            work_folder.mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class Relocate(TrainerCallback):
    """Finds the best checkpoint of a resumed training in the work folder, though it was written elsewhere."""

    def __init__(self, work: Path) -> None:
        self.work = work

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        work_folder.relocate(state, self.work)


class EarlyStopping(TrainerCallback):
    """Ends training when `patience` epochs have brought no better dev score."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if patience_is_out(state, self.patience):
            control.should_training_stop = True


class ShowProgress(TrainerCallback):
    """How far the training is (:class:`pipeline.core.progress.Progress`), and a line an epoch; on stderr."""

    bar: Progress | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        quiet = not processes.is_first()
        self.bar = Progress("train", "step", state.max_steps, initial=state.global_step, quiet=quiet)
        self.bar.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not processes.is_first():
            return
        logs = {**next((logs for logs in reversed(state.log_history) if "loss" in logs), {}), **state.log_history[-1]}
        scores = ", ".join(
            f"{key.removeprefix('eval_f1_')} {100 * value:.2f}"
            for key, value in logs.items()
            if key.startswith("eval_f1_")
        )
        tqdm.write(
            f"epoch {round(state.epoch or 0)}/{round(args.num_train_epochs)}: "
            f"loss {logs.get('loss', float('nan')):.4f}, dev F1 (strict) {scores}",
            file=sys.stderr,
        )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End what is shown, also where the training ends with an error."""
        if self.bar is not None:
            self.bar.close()


class Curves(TrainerCallback):
    """Loss terms and dev F1 of every epoch through DVCLive; a resumed training writes its earlier epochs again."""

    live: Any = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        from dvclive import Live
        from scmrepo.exceptions import SCMError

        # The root dvc.yaml names plots and metrics; DVCLive must write neither a dvc.yaml nor an experiment.
        try:
            self.live = Live(str(self.folder), dvcyaml=None, save_dvc_exp=False, report=None)
        except SCMError as error:
            raise UserError(f"train: DVCLive reads git's last commit: {error}; make a first one: git commit") from None
        losses: dict[str, float] = {}
        for logs in state.log_history:
            if "loss" in logs:
                losses = logs
            elif "eval_f1" in logs:
                self._write({**losses, **logs})

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        losses: dict[str, float] = next((logs for logs in reversed(state.log_history) if "loss" in logs), {})
        self._write({**losses, **state.log_history[-1]})

    def _write(self, logs: Mapping[str, float]) -> None:
        self.live.step = round(logs["epoch"])
        for name, value in logs.items():
            if name not in _NOT_LOSSES and not name.startswith("eval_"):
                self.live.log_metric(f"train/{name}", float(value))
        for name in ("f1", "f1_text_only", "f1_cross_modal"):
            if f"eval_{name}" in logs:
                self.live.log_metric(f"dev/{name}", float(logs[f"eval_{name}"]))
        for name in DRAWN:  # where a file is lacking, `dvc plots show` says that it failed
            path = self.folder / "plots" / "metrics" / f"{name}.tsv"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"step\t{path.stem}\n", encoding="utf-8")
        self.live.make_summary()
