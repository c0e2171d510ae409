"""Training: accumulation, determinism, resuming after a kill, early stopping, what it leaves behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerState

from ner.models.ita import ItaTagger
from ner.tagger import Tagger
from ner.training.callbacks import DRAWN, patience_is_out
from ner.training.run import set_up, train
from ner.training.sampler import LengthGroupedSampler
from ner.training.trainer import TaggerTrainer, keep_gradient
from ner.training.work_folder import COMPLETE
from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.settings.training import TrainParams
from tests.ner.conftest import ambiguous_views, small_params

ROOT = Path(__file__).resolve().parents[3]
LEARNING = {"epochs": 8, "learning_rate": 5e-3, "batch_size": 4, "warmup_ratio": 0.1, "alignment": "none"}
TRAIN, DEV = ambiguous_views(40, seed=0), ambiguous_views(16, seed=1)


def run(params: TrainParams, folder: Path, **changes: Any) -> dict[str, Any]:
    paths = {"output": folder / "tagger", "work": folder / "work", "curves": folder / "curves"}
    return train(params, **{"encoder": params.encoder, "train": TRAIN, "dev": DEV, "device": "cpu", **paths, **changes})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = Tagger.load(folder / "tagger", "cpu").model
    assert isinstance(model, torch.nn.Module)
    return model.state_dict()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_the_cross_modal_view_learns_what_only_the_context_tells(xlm_r_folder: Path, tmp_path: Path) -> None:
    result = run(small_params(xlm_r_folder, **LEARNING), tmp_path, train=ambiguous_views(80, seed=0))
    assert result["dev"]["f1_cross_modal"] == 1.0
    assert result["dev"]["f1_text_only"] < 0.9
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["finished.json", "tagger"]
    predictions = list(Tagger.load(tmp_path / "tagger", "cpu").predict(DEV))
    assert [prediction.predicted for prediction in predictions] == [view.labels for view in DEV]


def test_a_tagger_knows_how_its_labelled_data_wrote_mentions(xlm_r_folder: Path) -> None:
    labelled = View("1", ["@", "Jordan", "#", "Paris"], ["O", "B-PER", "O", "O"], "")
    model, _, _ = set_up(small_params(xlm_r_folder), xlm_r_folder, [labelled, View("2", ["@Jordan"], None, "")])
    assert model.config.marks == {"@": {"joined": 0, "apart": 1}, "#": {"joined": 0, "apart": 1}}


def test_same_seed_same_tagger_and_another_seed_another(xlm_r_folder: Path, tmp_path: Path) -> None:
    results = {}
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        results[name] = run(small_params(xlm_r_folder, seed=seed), tmp_path / name)
    assert results["one"] == results["two"]
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert not torch.equal(weights(tmp_path / "one")["emission.weight"], weights(tmp_path / "three")["emission.weight"])


class _Stop(Exception):
    pass


@contextmanager
def stopped(epoch: int) -> Iterator[None]:
    """A training that is stopped in its evaluation after so many epochs."""
    evaluate = TaggerTrainer.evaluate

    def stop(self: TaggerTrainer, *args: Any, **kwargs: Any) -> dict[str, float]:
        if round(self.state.epoch or 0) == epoch:
            raise _Stop
        return evaluate(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaggerTrainer, "evaluate", stop)
        with pytest.raises(_Stop):
            yield


@pytest.mark.parametrize("torn", [False, True, "moved", "optimizer.pt"])
def test_resumed_training_equals_an_undisturbed_one(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool | str
) -> None:
    """Stopped in the third epoch's evaluation; with `torn`, after a checkpoint of which only half was written, with the
    store moved in between, or with a byte of a file of the newest checkpoint changed.
    """
    params = small_params(xlm_r_folder, epochs=4)
    undisturbed = run(params, tmp_path / "whole")
    folder = tmp_path / "cut"
    with stopped(epoch=3):
        run(params, folder)
    if torn == "moved":
        folder = folder.rename(tmp_path / "elsewhere")
    elif isinstance(torn, str):
        damaged = tmp_path / "cut/work/checkpoint-10" / torn
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
    elif torn:
        last = tmp_path / "cut" / "work" / "checkpoint-10"
        half = shutil.copytree(last, last.with_name("checkpoint-15"))
        (half / COMPLETE).unlink()
        (half / "model.safetensors").write_bytes(b"\0" * 100)
    assert run(params, folder) == undisturbed
    assert_same(weights(tmp_path / "whole"), weights(folder))
    for curve in ("train/loss", "train/alignment", "dev/f1"):
        one, other = (place / "curves/plots/metrics" / f"{curve}.tsv" for place in (tmp_path / "whole", folder))
        assert one.read_text(encoding="utf-8") == other.read_text(encoding="utf-8")
        assert len(one.read_text(encoding="utf-8").splitlines()) == 1 + 4


def test_training_killed_by_the_system_resumes_to_the_same_scores(xlm_r_folder: Path, tmp_path: Path) -> None:
    params = small_params(xlm_r_folder, epochs=5)
    script = f"""
import torch
from pathlib import Path
torch.set_num_threads(1)
from tests.ner.conftest import small_params
from tests.ner.training.test_run import run
run(small_params(Path({str(xlm_r_folder)!r}), epochs=5), Path({str(tmp_path / "killed")!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    work = tmp_path / "killed" / "work"
    deadline = time.monotonic() + 200
    while not list(work.glob(f"checkpoint-*/{COMPLETE}")):
        assert killed.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "tagger").exists()
    assert list(work.iterdir())
    assert run(params, tmp_path / "killed") == run(params, tmp_path / "whole")
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_early_stopping_counts_epochs_without_a_better_score(xlm_r_folder: Path, tmp_path: Path) -> None:
    # After the first epoch the tagger takes every Jordan for the same; the second learns nothing that shows.
    params = small_params(xlm_r_folder, epochs=9, patience=1)
    result = run(params, tmp_path)
    assert (result["epochs"], result["best_epoch"], result["chosen_by"]) == (2, 1, "dev_f1")


def test_patience_begins_with_the_first_score_above_0() -> None:
    def is_out(*scores: float) -> bool:
        return patience_is_out(TrainerState(log_history=[{"eval_f1": score} for score in scores]), 2)

    assert not is_out()
    assert not is_out(0.0, 0.0, 0.0, 0.0)
    assert not is_out(0.0, 0.0, 0.1, 0.1)
    assert is_out(0.0, 0.2, 0.1, 0.2)


@pytest.mark.parametrize("mode", ["text_only", "cross_modal"])
def test_a_single_view_trains_and_is_scored_alone(xlm_r_folder: Path, tmp_path: Path, mode: str) -> None:
    result = run(small_params(xlm_r_folder, views=mode, epochs=1), tmp_path)
    assert set(result["dev"]) == {"f1", f"f1_{mode}"}
    lines = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in (tmp_path / "curves").rglob("*.tsv")}
    assert {name for name, curve in lines.items() if len(curve) > 1} == {"loss", f"nll_{mode}", "f1", f"f1_{mode}"}
    assert lines["alignment"] == ["step\talignment"], "what dvc.yaml draws is there, with nothing in it"
    assert {name.rpartition("/")[2] for name in DRAWN} <= set(lines)


def test_bfloat16_trains(xlm_r_folder: Path, tmp_path: Path) -> None:
    params = small_params(xlm_r_folder, precision="bfloat16", **LEARNING)
    result = run(params, tmp_path, train=ambiguous_views(80, seed=0))
    assert result["dev"]["f1_cross_modal"] > 0.9
    assert weights(tmp_path)["emission.weight"].dtype == torch.float32


def first_step(
    folder: Path,
    tmp_path: Path,
    accumulation: int,
    monkeypatch: pytest.MonkeyPatch,
    changes: Mapping[str, Any] | None = None,
    **data: Any,
) -> list[torch.Tensor]:
    """The gradients that the optimiser gets in its first step, without dropout."""
    gradients: list[torch.Tensor] = []
    from_encoder = ItaTagger.from_encoder

    def without_dropout(*args: Any, **kwargs: Any) -> ItaTagger:
        model = from_encoder(*args, **kwargs)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return model

    def capture(self: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        gradients.extend(parameter.grad.clone() for group in self.param_groups for parameter in group["params"])
        raise _Stop

    with monkeypatch.context() as patch:
        patch.setattr(ItaTagger, "from_encoder", without_dropout)
        patch.setattr(torch.optim.AdamW, "step", capture)
        settings = {"word_dropout": 0.0, "gradient_accumulation": accumulation, "max_grad_norm": 1e9, **(changes or {})}
        with pytest.raises(_Stop):
            run(small_params(folder, **settings), tmp_path / str(accumulation), **data)
    return gradients


@pytest.mark.parametrize("n_tweets", [8, 5])  # of a batch of eight: parts of two, and of two, two and one
def test_gradients_accumulated_in_four_parts_equal_those_of_one(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_tweets: int
) -> None:
    train = ambiguous_views(n_tweets, seed=0)
    one, four = (first_step(xlm_r_folder, tmp_path, parts, monkeypatch, train=train) for parts in (1, 4))
    assert len(one) == len(four) > 10
    for gradient, other in zip(one, four, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)
    assert max(float(gradient.abs().max()) for gradient in one) > 0.1


def test_an_embedding_whose_gradient_is_kept_has_torchs_dense_one() -> None:
    torch.manual_seed(4)
    usual = torch.nn.Embedding(12, 3, padding_idx=1)
    kept = torch.nn.Embedding.from_pretrained(usual.weight.detach().clone(), freeze=False, padding_idx=1)
    keep_gradient(kept)
    places = set()
    for _ in range(3):  # steps, of two passes whose gradients are added up
        for ids in torch.randint(0, 12, (2, 2, 5)):
            upstream = torch.randn(2, 5, 3)
            for embedding in (usual, kept):
                embedding(ids).backward(upstream)
            torch.testing.assert_close(kept.weight.grad, usual.weight.grad)
        assert kept.weight.grad is not None
        places.add(kept.weight.grad.data_ptr())
        kept.weight.grad.fill_(torch.nan)  # whatever is done to it, the next step begins at 0
        for embedding in (usual, kept):
            embedding.zero_grad()
    assert len(places) == 1


def test_groups_have_their_learning_rates(xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[dict[str, Any]] = []

    def look(self: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        groups.extend(self.param_groups)
        raise _Stop

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    with pytest.raises(_Stop):
        run(small_params(xlm_r_folder, new_learning_rate=0.01), tmp_path)
    assert [group["lr"] for group in groups] == [3e-3, 3e-3, 0.01, 0.01, 0.05]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0, 0.01, 0.0, 0.0]
    assert [len(group["params"]) for group in groups[2:]] == [1, 1, 3]


def test_a_training_bounds_what_is_kept_for_each_shape(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    run(small_params(xlm_r_folder, epochs=1), tmp_path)
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "16"
    assert os.environ["LRU_CACHE_CAPACITY"] == "7", "a user's own stays"


def test_the_alignments_weight_rises_over_its_warm_up(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales: list[float] = []
    forward = ItaTagger.forward

    def listen(self: ItaTagger, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        scales.append(kwargs["alignment_scale"])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(ItaTagger, "forward", listen)
    run(small_params(xlm_r_folder, alignment_warmup=0.5), tmp_path)  # 2 epochs of 5 steps
    assert scales == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1])


def test_context_dropout_needs_both_views() -> None:
    with pytest.raises(ValueError, match=r"context_dropout: .* found views: text_only"):
        small_params(Path("encoder"), views="text_only", ita={"context_dropout": 0.1})


def test_batches_are_alike_in_length_new_each_epoch_and_complete() -> None:
    widths = [(7 * index) % 50 + 1 for index in range(103)]
    sampler = LengthGroupedSampler(widths, 8, seed=1)
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2] != epochs[1]
    assert sorted(epochs[0]) == list(range(103))
    spreads = []
    for start in range(0, 96, 8):
        batch = [widths[index] for index in epochs[0][start : start + 8]]
        spreads.append(max(batch) - min(batch))
    assert sum(spreads) / len(spreads) < 8


def test_posts_that_teach_nothing_are_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    params = small_params(xlm_r_folder)
    unlabelled = View("7", ["love"], None, "")
    for changes, message in (
        ({"dev": [*DEV, unlabelled]}, "post 7 of the dev split has no labels"),
        ({"dev": []}, "the dev split has no posts"),
        ({"train": [View("1", ["a"], ["O"], "")]}, "no post has an entity"),
    ):
        with pytest.raises(UserError, match=message):
            run(params, tmp_path, **changes)


def test_an_entity_type_of_dev_alone_is_counted_as_missed(xlm_r_folder: Path, tmp_path: Path) -> None:
    dev = [*DEV, View("new", ["Paris"], ["B-ORG"], "")]
    assert run(small_params(xlm_r_folder, epochs=1), tmp_path, dev=dev)["epochs"] == 1


def test_without_entities_on_dev_the_last_epoch_is_kept(
    xlm_r_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = [View("1", ["love"], ["O"], ""), View("2", ["in", "the"], ["O", "O"], "")]
    result = run(small_params(xlm_r_folder, epochs=3, patience=1), tmp_path, dev=dev)
    assert (result["epochs"], result["best_epoch"], result["chosen_by"]) == (3, 3, "last_epoch")
    assert "none of the 2 posts of the dev split has an entity" in capsys.readouterr().err
    kept = run(small_params(xlm_r_folder, epochs=3), tmp_path / "other")
    assert kept["chosen_by"] == "dev_f1"
    if kept["best_epoch"] == 3:  # the same training up to here
        assert_same(weights(tmp_path), weights(tmp_path / "other"))


def test_a_finished_training_is_taken_and_not_run_again(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill between the end of a training and DVC's record of it: DVC removes the outputs first."""
    params = small_params(xlm_r_folder)
    result, trained = run(params, tmp_path), weights(tmp_path)
    curve = tmp_path / "curves/plots/metrics/train/loss.tsv"
    drawn = curve.read_text(encoding="utf-8")
    for folder in ("tagger", "curves"):
        shutil.rmtree(tmp_path / folder)
    with monkeypatch.context() as patch:
        patch.delattr(Trainer, "train")  # so that training would fail
        assert run(params, tmp_path) == result
    assert "its tagger is taken from" in capsys.readouterr().err
    assert_same(trained, weights(tmp_path))
    assert curve.read_text(encoding="utf-8") == drawn
    (tmp_path / "work/tagger/model.safetensors").write_bytes(b"")  # damaged: trained again
    assert run(params, tmp_path) == result
    assert_same(trained, weights(tmp_path))
