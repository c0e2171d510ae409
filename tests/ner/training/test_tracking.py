"""MLflow, Weights & Biases and TensorBoard are told of a training's settings and scores, and of nothing else."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ner.training import run as training
from pipeline.core import trackers
from pipeline.core.errors import UserError
from pipeline.settings.training import TrainParams
from tests.ner.conftest import ambiguous_views, small_params

WORDS = ("Jordan", "desert")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a training runs, its environment put back afterwards."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def run(name: Any, encoder: Path, folder: Path) -> dict[str, Any]:
    params = small_params(encoder, epochs=2, report_to=name)
    train, dev = ambiguous_views(8, seed=0), ambiguous_views(4, seed=1)
    paths: dict[str, Any] = {"output": folder / "tagger", "work": folder / "work", "curves": None}
    return training.train(params, encoder=params.encoder, train=train, dev=dev, device="cpu", **paths)


def assert_tells_nothing(text: bytes, folder: Path, encoder: Path) -> None:
    for told in (str(folder), str(encoder.parent), str(Path.cwd()), socket.gethostname(), str(Path.home()), *WORDS):
        if len(told) > 5:  # a home such as /root is part of other words
            assert told.encode() not in text, told


def test_tensorboard_has_the_scores_and_settings(xlm_r_folder: Path, folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is the user's to install")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run("tensorboard", xlm_r_folder, folder)
    (file,) = (folder / "runs" / "work").iterdir()
    events = EventAccumulator(str(file.parent)).Reload()
    scores = [event.value for event in events.Scalars("eval/f1")]
    assert scores[result["best_epoch"] - 1] == pytest.approx(result["dev"]["f1"])
    assert b'"train.epochs": 2' in file.read_bytes()
    host = socket.gethostname().encode()
    assert_tells_nothing(file.read_bytes().replace(host, b""), folder, xlm_r_folder)  # a file of this machine


def test_mlflow_has_the_scores_and_settings(xlm_r_folder: Path, folder: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is the user's to install")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'followed.db'}"
    result = run("mlflow", xlm_r_folder, folder)
    (found,) = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).search_runs(["0"])
    assert (found.info.status, found.info.run_name) == ("FINISHED", "work")
    assert found.data.params["train.epochs"] == "2"
    assert found.data.params["train.encoder"] == xlm_r_folder.name
    assert "eval_f1" in found.data.metrics
    assert result["epochs"] == 2
    told = repr((found.data.params, found.data.tags, found.data.metrics))
    assert_tells_nothing(told.encode(), folder, xlm_r_folder)


def test_wandb_has_the_scores_and_settings(xlm_r_folder: Path, folder: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is the user's to install")
    os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": str(folder)}
    run("wandb", xlm_r_folder, folder)
    (sent,) = folder.glob("wandb/offline-run-*/*.wandb")
    told = sent.read_bytes()
    assert b"train.epochs" in told
    assert b"eval/f1" in told
    assert_tells_nothing(told, folder, xlm_r_folder)
    files = [path.name for path in sent.parent.glob("files/*")]
    assert not {"wandb-metadata.json", "output.log", "requirements.txt"} & set(files), files


def test_what_is_not_installed_is_named(xlm_r_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.PACKAGES, "mlflow", ("no_such_package",))
    with pytest.raises(UserError, match=r"^train\.report_to: mlflow: the package no_such_package is not installed"):
        run("mlflow", xlm_r_folder, folder)
    trackers.require("none")


def test_flair_cannot_be_followed() -> None:
    with pytest.raises(ValidationError, match="report_to: found 'mlflow', expected 'none'"):
        TrainParams(encoder="x", trainer="flair", report_to="mlflow")
