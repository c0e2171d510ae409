"""The CRF benchmark: what it compares agrees, what it reports is what it measured, and turns alternate."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import Ratio, median_seconds, report
from benchmarks.crf import Tensors, measure
from ner.models.alignment import TwoViews, marginal

ROOT = Path(__file__).resolve().parents[2]


def test_a_ratio_is_held_to_a_least_or_a_most() -> None:
    assert Ratio("fast", 3.0, 3.0).met is True
    assert Ratio("fast", 2.9, 3.0).met is False
    assert Ratio("cheap", 2.9, 3.0, ceiling=True).met is True
    assert Ratio("cheap", 3.1, 3.0, ceiling=True).met is False
    assert Ratio("told", 1.0).met is None


def test_every_round_gives_each_contestant_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, called = [0.0], []

    def contestant(name: str, seconds: list[float]) -> None:
        called.append(name)
        clock[0] += seconds[called.count(name) - 1]

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    stalled = [1.0] * 10 + [100.0] * 2  # the last round's turn met with a stall
    found = median_seconds(
        {"a": lambda: contestant("a", stalled), "b": lambda: contestant("b", [3.0] * 12)}, rounds=5, calls=2
    )
    assert found == {"a": 1.0, "b": 3.0}
    assert [sorted(called[start : start + 4]) for start in range(0, 24, 4)] == [["a", "a", "b", "b"]] * 6


def test_a_report_is_a_table_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report([Ratio("one", 2.5, 2.0), Ratio("two", 9.0)], {"cores": 2}, tmp_path / "r.json", {"three": "no flair"})
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == {
        "ratios": {
            "one": {"value": 2.5, "target": 2.0, "met": True},
            "two": {"value": 9.0, "target": None, "met": None},
        },
        "machine": {"cores": 2},
        "not_measured": {"three": "no flair"},
    }
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["one", "2.50", "≥", "2", "met"]
    assert "not measured: no flair" in printed[3]


def test_the_marginal_kl_that_is_timed_is_the_loss_that_is_trained() -> None:
    tensors = Tensors(3, "cpu")
    views = TwoViews(
        tensors.teacher,
        tensors.emissions,
        tensors.crf.log_partition_and_marginals(tensors.teacher, tensors.mask)[1].detach(),
        tensors.crf.log_partition_and_marginals(tensors.emissions, tensors.mask)[1],
        tensors.mask,
    )
    wanted = tensors.gradients(marginal(tensors.crf, views, 4.0).sum(), tensors.crf)
    for found, expected in zip(tensors.our_kl(), wanted, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_contestant_that_disagrees_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensors, "their_viterbi", lambda self: [[0] * 40] * 32)
    with pytest.raises(RuntimeError, match="best paths differ"):
        measure(32, "cpu", 1, with_flair=False)


def test_command_writes_its_ratios(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.crf", "--rounds", "1", "--threads", "1", "--json", str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "r").read_text(encoding="utf-8"))
    assert written["machine"]["torch_threads"] == 1
    values = {name: row["value"] for name, row in written["ratios"].items()}
    assert all(math.isfinite(value) and value > 0 for value in values.values())
    assert sum(name.startswith("likelihood and gradient") for name in values) == 2
    assert sum("flair" in name for name in {**values, **written["not_measured"]}) == 2
