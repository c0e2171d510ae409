"""What watches a training."""

import subprocess
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from ner.training.callbacks import Curves
from pipeline.core.errors import UserError


def test_a_repository_without_a_commit_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    arguments = TrainingArguments(output_dir=str(tmp_path / "work"), use_cpu=True, report_to="none")
    with pytest.raises(UserError, match=r"last commit.*git commit"):
        Curves(tmp_path / "curves").on_train_begin(arguments, TrainerState(), TrainerControl())
