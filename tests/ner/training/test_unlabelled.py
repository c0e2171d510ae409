"""Posts without labels in training: which are read when, that the alignment alone learns from them, resuming."""

import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ner.bioes import scheme_labels
from ner.models import losses
from ner.models.folder import load_tokenizer, view_encoder
from ner.models.registry import SYSTEMS, tagger_class
from ner.training import examples
from ner.training.sampler import Example, LengthGroupedSampler, MixedSampler, collate_examples
from ner.training.work_folder import COMPLETE
from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.settings.training import TrainParams
from tests.conftest import ROOT
from tests.ner.conftest import ambiguous_views, pictured, synthetic_visuals, system_params
from tests.ner.training import test_systems
from tests.ner.training.test_processes import launch
from tests.ner.training.test_run import assert_same, first_step, stopped, weights
from tests.project import wait_for


def without_labels(posts: list[View]) -> list[View]:
    return [replace(post, id=f"u{post.id}", labels=None) for post in posts]


LABELS = scheme_labels([["B-PER", "B-LOC"]])
LONG = View("ulong", ["Jordan", "love", "in", "the"] * 30, None, "photo of court")
TRAIN, DEV = pictured(ambiguous_views(16, seed=0)), pictured(ambiguous_views(6, seed=1))
OTHERS = pictured([*without_labels(ambiguous_views(11, seed=2)), LONG])

TRAINING = """
import sys, torch
from pathlib import Path
from tests.ner.conftest import system_params
from tests.ner.training.test_unlabelled import run
torch.set_num_threads(1)
encoder, folder = map(Path, sys.argv[1:])
print(run(system_params(encoder, "ita", epochs=5), folder))
"""
GRADIENTS = """
import os, sys, torch, pytest
from pathlib import Path
from tests.ner.training.test_unlabelled import gradients
torch.set_num_threads(1)
encoder, folder = map(Path, sys.argv[1:])
with pytest.MonkeyPatch.context() as patch:
    found = gradients(encoder, folder / os.environ["RANK"], 1, patch)
torch.save(found, folder / f"gradients-{os.environ['RANK']}.pt")
"""


def run(params: TrainParams, folder: Path, **changes: Any) -> dict[str, Any]:
    return test_systems.run(params, folder, **{"train": TRAIN, "dev": DEV, "unlabelled": OTHERS, **changes})


def test_posts_without_labels_are_read_as_the_labelled_ones_are_written(
    xlm_r_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled = [View("1", ["@Jordan", "in", "#Paris"], ["B-PER", "O", "B-LOC"], "")] * 2
    others = [View("2", ["@", "Oprah", "met", "#", "me", "@", "home"], None, "a dog"), View("3", ["@Jordan"], None, "")]
    train, rest = examples.parted(system_params(xlm_r_folder, "ita"), labelled, others)
    assert train == labelled
    assert rest == [replace(others[0], tokens=["@Oprah", "met", "#me", "@home"]), others[1]]
    assert "1 of 2 posts without labels write mentions or hashtags otherwise" in capsys.readouterr().err


@pytest.mark.parametrize("ratio", [0.3, 1.0, 2.5])
def test_every_post_without_labels_is_read_as_often_as_any_other(ratio: float) -> None:
    widths = [(7 * index) % 50 + 1 for index in range(103)]
    others = [(11 * index) % 50 + 1 for index in range(64)]
    sampler = MixedSampler(LengthGroupedSampler(widths, 8, seed=1), others, ratio)
    alone = LengthGroupedSampler(widths, 8, seed=1)
    epochs = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        alone.set_epoch(epoch)
        epochs.append(list(sampler))
        assert [places[0] for places in epochs[-1]] == list(alone)
    sampler.set_epoch(3)
    assert list(sampler) == epochs[3] != epochs[4]
    read = Counter(place for epoch in epochs for places in epoch for place in places[1:])
    assert read.total() == 5 * int(103 * ratio + 1e-6)
    assert set(read) <= set(range(103, 103 + 64))
    counts = [read[place] for place in range(103, 103 + 64)]
    assert max(counts) - min(counts) <= 1
    spreads = []
    for start in range(0, 96, 8):
        batch = [others[place - 103] for places in epochs[0][start : start + 8] for place in places[1:]]
        spreads.append(max(batch) - min(batch))
    assert sum(spreads) / len(spreads) < 20  # of 50


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_post_without_labels_is_aligned_and_nothing_else(
    xlm_r_folder: Path, tmp_path: Path, system: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient is that of the terms by themselves: likelihoods over the labelled, the alignment over all."""
    monkeypatch.setattr(losses, "SMALL", 10**9 if small else 0)
    params = system_params(xlm_r_folder, system, temperature=2.0)
    visuals = synthetic_visuals(tmp_path)
    posts = [*TRAIN[:4], *OTHERS[:6]]
    torch.manual_seed(2)
    kind = tagger_class(system)
    model: Any = kind.from_encoder(xlm_r_folder, LABELS, params, facts=kind.facts_of(params, posts, visuals)).eval()
    with torch.no_grad():  # so that the views are apart
        (model.head if system == "rpbert" else model.emission).weight.mul_(20)
        if system == "rpbert":
            model.projection.weight.mul_(20)
    views = view_encoder(load_tokenizer(xlm_r_folder), model.config)
    if model.reads_visual:
        views.show(visuals, model.config.facts)
    made = examples.make(params, model, views, posts[:4], posts[4:])

    def batch(some: list[Example]) -> dict[str, Any]:
        return collate_examples(some, views.pad_id, model.training_views)

    def gradient(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}

    labelled, unlabelled = batch(made.labelled), batch(made.unlabelled)
    assert set(unlabelled) == {"text_only", "cross_modal", *(["visual"] if model.reads_visual else [])}
    outputs = model(**labelled, unlabelled=unlabelled)
    found = gradient(outputs["loss"])
    alone = model(**labelled, alignment_scale=0.0)
    expected = gradient(alone["loss"])
    # As labelled posts with any labels, of whose loss the alignment alone is taken.
    model.config.weight_text_only = model.config.weight_cross_modal = 0.0
    monkeypatch.setattr(model, "extra_losses", lambda *_: {})
    named = [replace(each, labels=[0] * len(each.views["text_only"])) for each in made.unlabelled]
    every = model(**batch([*made.labelled, *named]))
    aligned = gradient(every["loss"])
    assert outputs["alignment"].item() == pytest.approx(every["alignment"].item(), rel=1e-4)
    assert outputs["nll_text_only"].item() == pytest.approx(alone["nll_text_only"].item(), rel=1e-5)
    assert max(float(each.abs().max()) for each in aligned.values()) > 1e-4
    for name, each in found.items():
        wanted = expected.get(name, torch.zeros_like(each)) + aligned.get(name, torch.zeros_like(each))
        torch.testing.assert_close(each, wanted, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "system", ["ita", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rpbert", "iie4mner"))]
)
def test_a_stopped_training_with_posts_without_labels_goes_on_to_the_same_weights(
    xlm_r_folder: Path, tmp_path: Path, system: str
) -> None:
    params = system_params(xlm_r_folder, system, epochs=2, unlabelled_ratio=1.5)
    whole = run(params, tmp_path / "whole")
    assert whole["unlabelled"] == {"posts": 12}
    with stopped(epoch=2):
        run(params, tmp_path / "cut")
    assert run(params, tmp_path / "cut") == whole
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def gradients(encoder: Path, folder: Path, parts: int, patch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Those of a step of eight labelled posts and eight others, without dropout."""
    return first_step(encoder, folder, parts, patch, train=ambiguous_views(8, seed=0), unlabelled=OTHERS[:8])


def test_gradients_accumulated_in_parts_equal_those_of_one(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, four = (gradients(xlm_r_folder, tmp_path, parts, monkeypatch) for parts in (1, 4))
    for gradient, other in zip(one, four, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)
    alone = first_step(xlm_r_folder, tmp_path / "alone", 1, monkeypatch, train=ambiguous_views(8, seed=0))
    assert any(not torch.allclose(gradient, other) for gradient, other in zip(one, alone, strict=True))


@pytest.mark.slow  # two processes are started
def test_two_processes_have_the_gradients_of_one(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS, encoding="utf-8")
    process = launch(script, xlm_r_folder, tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    alone = gradients(xlm_r_folder, tmp_path / "alone", 1, monkeypatch)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        for gradient, other in zip(together, alone, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow  # Python is started anew
def test_a_killed_training_with_posts_without_labels_goes_on_to_the_same_weights(
    xlm_r_folder: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAINING, str(xlm_r_folder), str(tmp_path / "killed")]
    killed = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    wait_for(lambda: list((tmp_path / "killed/work").glob(f"checkpoint-*/{COMPLETE}")), 200)
    assert killed.poll() is None, "training ended before it could be killed"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    params = system_params(xlm_r_folder, "ita", epochs=5)
    assert run(params, tmp_path / "killed") == run(params, tmp_path / "whole")
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


def test_a_post_of_train_without_labels_is_one_of_them(
    xlm_r_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = system_params(xlm_r_folder, "ita", epochs=1)
    one = run(params, tmp_path / "one", train=[*TRAIN, *OTHERS], unlabelled=[])
    assert one == run(params, tmp_path / "other")
    assert_same(weights(tmp_path / "one"), weights(tmp_path / "other"))
    assert one["unlabelled"] == {"posts": 12}
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"alignment": "none"}, {"views": "text_only"}, {"unlabelled_ratio": 0.0}])
def test_where_nothing_learns_from_them_they_are_left_out_and_that_is_said(
    changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    params = system_params(Path("encoder"), "ita", **changes)
    assert examples.parted(params, [*TRAIN, OTHERS[0]], OTHERS[1:]) == (TRAIN, [])
    assert "12 posts without labels are left out: nothing is learned from them" in capsys.readouterr().err


def test_blank_posts_teach_nothing_and_labels_are_needed_somewhere() -> None:
    params = system_params(Path("encoder"), "ita")
    assert examples.parted(params, TRAIN, [View("blank", [], None, "")]) == (TRAIN, [])
    with pytest.raises(UserError, match="none of the 12 posts of the train split has labels"):
        examples.parted(params, OTHERS, [])
    with pytest.raises(UserError, match="the train split has no posts"):
        examples.parted(params, [], OTHERS)
