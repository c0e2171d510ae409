"""Numbers that are not: a training stops at them, and saves nothing of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ner.training.finite import FiniteLosses, NotFinite, require_finite
from ner.training.trainer import TaggerTrainer
from pipeline.core.errors import UserError
from pipeline.core.records import View
from tests.ner.conftest import small_params
from tests.ner.training.test_run import run

THREE = [
    View("1", ["love", "Jordan"], ["O", "B-PER"], ""),
    View("2", ["in", "Paris"], ["O", "B-LOC"], ""),
    View("3", ["the", "court"], ["O", "O"], ""),
]


def test_a_rate_that_is_far_too_high_stops_and_saves_nothing(xlm_r_folder: Path, tmp_path: Path) -> None:
    params = small_params(xlm_r_folder, learning_rate=1e9, crf_learning_rate=1e9, epochs=30)
    with pytest.raises(
        UserError, match=r"(loss is (nan|inf)|is not finite) at step \d+ of 30, .* rate was \d"
    ) as error:
        run(params, tmp_path, train=THREE, dev=THREE)
    assert "Lower train.learning_rate (1e+09)" in str(error.value)
    assert not (tmp_path / "tagger").exists()
    for saved in (tmp_path / "work").rglob("model.safetensors"):
        from safetensors.torch import load_file

        require_finite(load_file(saved))


def test_the_last_sound_checkpoint_is_named(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = TaggerTrainer.evaluate

    def poison(self: TaggerTrainer, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = evaluate(self, *args, **kwargs)
        if round(self.state.epoch or 0) == 2:
            self.model.emission.bias.data[0] = torch.nan  # behind the check, so that this epoch's is not saved
        return metrics

    monkeypatch.setattr(TaggerTrainer, "evaluate", poison)
    with pytest.raises(
        UserError, match=r"the loss is nan at step 3 of 4, where the learning rate was 0\.0015"
    ) as error:
        run(small_params(xlm_r_folder, epochs=4), tmp_path, train=THREE, dev=THREE)
    assert f"the last sound checkpoint is that of epoch 2, {tmp_path / 'work' / 'checkpoint-2'}" in str(error.value)
    assert not (tmp_path / "tagger").exists()


def test_a_loss_seen_late_is_named_by_its_own_step() -> None:
    losses = FiniteLosses()
    losses._noted = [(step, 0.5 / step, torch.tensor(value)) for step, value in ((7, 1.0), (8, torch.inf), (9, 1.0))]
    with pytest.raises(NotFinite) as found:
        losses.check()
    assert (found.value.step, found.value.rate, found.value.what) == (8, 0.0625, "the loss is inf")
    losses.check()


def test_weights_that_are_not_finite_are_no_tagger() -> None:
    require_finite({"whole": torch.ones(2), "counts": torch.ones(2, dtype=torch.long)})
    with pytest.raises(UserError, match="the weight second is not finite"):
        require_finite({"first": torch.ones(2), "second": torch.tensor([1.0, -torch.inf])})
