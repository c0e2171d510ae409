"""Every system trained through a kill and in two processes, on posts with one picture, several, a torn one, none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ner.models.registry import SYSTEMS
from ner.training.run import train
from ner.training.work_folder import COMPLETE
from pipeline.core.records import View
from pipeline.settings.training import TrainParams
from tests.conftest import ROOT
from tests.ner.conftest import ambiguous_views, pictured, synthetic_visuals, system_params
from tests.ner.training.test_processes import launch
from tests.ner.training.test_run import assert_same, stopped, weights

LONG = View("long", ["Jordan", "love", "in", "the"] * 30, ["B-PER", "O", "O", "O"] * 30, "photo of court")
TRAIN, DEV = pictured([*ambiguous_views(15, seed=0), LONG]), pictured(ambiguous_views(6, seed=1))

TRAINING = """
import sys, torch
from pathlib import Path
from tests.ner.conftest import system_params
from tests.ner.training.test_systems import run
torch.set_num_threads(1)
system, encoder, folder = sys.argv[1], *map(Path, sys.argv[2:])
run(system_params(encoder, system, epochs=4), folder)
"""
GRADIENTS = """
import os, sys, torch, pytest
from pathlib import Path
from ner.models import losses
from tests.ner.training.test_systems import first_gradients
torch.set_num_threads(1)
system, encoder, folder, in_turn = sys.argv[1], *map(Path, sys.argv[2:4]), sys.argv[4]
with pytest.MonkeyPatch.context() as patch:
    if os.environ["RANK"] in in_turn:  # one view's activations at a time, as of batches that are not small
        patch.setattr(losses, "SMALL", 0)
    gradients = first_gradients(system, encoder, folder / os.environ["RANK"], patch)
torch.save(gradients, folder / f"gradients-{os.environ['RANK']}.pt")
"""


class _Stop(Exception):
    pass


def run(params: TrainParams, folder: Path, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    shown = folder / "shown"
    if not shown.exists():
        shown.mkdir()
        synthetic_visuals(shown)
    paths = {"output": folder / "tagger", "work": folder / "work", "curves": folder / "curves"}
    data = {"train": TRAIN, "dev": DEV, "visuals": synthetic_visuals(shown), "device": "cpu"}
    return train(params, **{"encoder": params.encoder, **data, **paths, **changes})


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_stopped_training_goes_on_to_the_same_weights(xlm_r_folder: Path, tmp_path: Path, system: str) -> None:
    params = system_params(xlm_r_folder, system, epochs=2)
    whole = run(params, tmp_path / "whole")
    with stopped(epoch=2):
        run(params, tmp_path / "cut")
    assert run(params, tmp_path / "cut") == whole
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


@pytest.mark.slow  # Python is started anew
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_killed_training_goes_on_to_the_same_weights(xlm_r_folder: Path, tmp_path: Path, system: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAINING, system, str(xlm_r_folder), str(tmp_path / "killed")]
    killed = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while not list((tmp_path / "killed/work").glob(f"checkpoint-*/{COMPLETE}")):
        assert killed.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed/tagger").exists()
    params = system_params(xlm_r_folder, system, epochs=4)
    assert run(params, tmp_path / "killed") == run(params, tmp_path / "whole")
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))


# One batch, whose shorter half, the first process's, has pictures and whose longer half, the second's, has none.
HALVES = [
    *(
        View(str(n), ["love", "Jordan"], ["O", "B-PER"], "photo of court", ["court.jpg"] * (1 + n % 2))
        for n in range(4)
    ),
    *(
        View(f"alone-{n}", ["in", "the", "court", "Paris", "Jordan"], ["O", "O", "O", "B-PER", "I-PER"], "")
        for n in range(4)
    ),
]


def first_gradients(
    system: str, encoder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """What the optimiser gets in its first step, without dropout; none where a parameter is not used."""
    calm = shutil.copytree(encoder, folder / "encoder")
    config = json.loads((calm / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (calm / "config.json").write_text(json.dumps(config), encoding="utf-8")
    gradients: dict[str, torch.Tensor] = {}

    def capture(self: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        for group, options in enumerate(self.param_groups):
            for place, parameter in enumerate(options["params"]):
                if parameter.grad is not None:
                    gradients[f"{group}.{place}"] = parameter.grad.clone()
        raise _Stop

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", capture)
        options = {"fusion_dropout": 0.0} if system == "iie4mner" else {}
        params = system_params(calm, system, word_dropout=0.0, max_grad_norm=1e9, options=options)
        with pytest.raises(_Stop):
            run(params, folder / "run", train=HALVES)
    return gradients


@pytest.mark.slow  # two processes are started
@pytest.mark.parametrize("in_turn", ["none", "0", "1", "01"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_two_processes_have_the_gradients_of_one_though_one_of_them_sees_no_picture(
    xlm_r_folder: Path, tmp_path: Path, system: str, in_turn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [bool(post.images) for post in HALVES] == [True] * 4 + [False] * 4
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS, encoding="utf-8")
    for name in ("0", "1", "alone"):
        (tmp_path / name).mkdir()
    process = launch(script, Path(system), xlm_r_folder, tmp_path, Path(in_turn))
    _, errors = process.communicate(timeout=580)
    assert process.returncode == 0, errors
    alone = first_gradients(system, xlm_r_folder, tmp_path / "alone", monkeypatch)
    for number in (0, 1):
        together = torch.load(tmp_path / f"gradients-{number}.pt", weights_only=True)
        assert together.keys() >= alone.keys()
        for place, gradient in together.items():
            expected = alone.get(place, torch.zeros_like(gradient))
            torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5, msg=place)
