"""A training followed by MLflow, Weights & Biases or TensorBoard, through transformers' own callbacks.

As they are, these send all that they find: paths, the host and the user's name, the encoder's config. Here they are
shown the section `train` of params.yaml, losses and scores. Where to, and with which key, is the environment's to say
(MLFLOW_TRACKING_URI, WANDB_API_KEY, …), as their own documentation has it.
"""

import json
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pipeline.core import trackers
from pipeline.core.errors import UserError
from pipeline.settings.section import settings
from pipeline.settings.training import TrainParams

_TOLD = {
    "mlflow": {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_RUN_CONTEXT": json.dumps({"mlflow.source.name": "sightread", "mlflow.user": ""}),
    },
    "wandb": {
        **dict.fromkeys(("WANDB_DISABLE_CODE", "WANDB_DISABLE_GIT", "WANDB_X_DISABLE_META"), "true"),
        **dict.fromkeys(("WANDB_X_DISABLE_STATS", "WANDB_X_DISABLE_MACHINE_INFO"), "true"),
        **dict.fromkeys(("WANDB_ERROR_REPORTING", "WANDB_X_SAVE_REQUIREMENTS"), "false"),
        **dict.fromkeys(("WANDB_LOG_MODEL", "WANDB_WATCH"), "false"),  # both want the model, which is not shown
        **{"WANDB_CONSOLE": "off", "WANDB_HOST": "sightread", "WANDB_PROGRAM": "sightread", "WANDB_SILENT": "true"},
    },
    "tensorboard": {},
}
"""What keeps a package from telling more of the machine than a training's settings and scores."""


class Tracked(TrainerCallback):
    """Tells one of them of a training: its settings as it begins, losses and scores of every epoch."""

    def __init__(self, params: TrainParams, run: str) -> None:
        """Look for the package.

        Args:
            params: of the training; `report_to` names what follows it.
            run: the run's name.

        Raises:
            UserError: the package is not installed, or cannot be used.
        """
        self._name, self._ended = params.report_to, False
        try:
            trackers.require(self._name)
        except UserError as error:
            raise UserError(f"train.report_to: {error}") from None
        os.environ.update(_TOLD[self._name])
        told = dict(settings(params, "train."))
        self._arguments = SimpleNamespace(
            run_name=run, output_dir=".", to_dict=lambda: dict(told), to_json_string=lambda: json.dumps(told, indent=2)
        )
        self._callback = self._asked(lambda: _callback(self._name, run))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._asked(lambda: self._callback.on_train_begin(self._arguments, state, control))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        numbers = {key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}
        self._asked(lambda: self._callback.on_log(self._arguments, state, control, logs=numbers))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._asked(lambda: self._callback.on_train_end(self._arguments, state, control))
        self._ended = True

    def close(self) -> None:
        """End the run, as failed where the training has not come to its end; the next training has one of its own."""
        if self._name == "wandb":
            import wandb

            wandb.finish(exit_code=0 if self._ended else 1)
        elif self._name == "mlflow":
            import mlflow

            if mlflow.active_run() is not None:
                mlflow.end_run("FINISHED" if self._ended else "FAILED")

    def _asked(self, action: Callable[[], Any]) -> Any:
        """What an action of the package gives.

        Raises:
            UserError: it failed: no key, no such server, a full disk.
        """
        try:
            return action()
        except Exception as error:  # whatever a package of others' raises
            raise UserError(
                f"train.report_to: {self._name} failed: {type(error).__name__}: {error}. Epochs that are done are "
                "kept: mend what it says, or set train.report_to: none, and run again"
            ) from error


def _callback(name: str, run: str) -> Any:
    from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

    if name == "mlflow":
        return MLflowCallback()
    if name == "wandb":
        return WandbCallback()
    callback = TensorBoardCallback()
    callback.logging_dir = callback.logging_dir or os.path.join("runs", run)  # TENSORBOARD_LOGGING_DIR first
    return callback
