"""The training benchmark of systems that read pictures as tensors: what their steps are compared with."""

from pathlib import Path

import pytest
import torch

from benchmarks.training import COMPARISONS, SIDES
from benchmarks.training_sides import Work, prepare
from benchmarks.training_systems import N_CELLS, SYSTEMS, prepare_systems
from pipeline.core import records
from tests.conftest import ROOT
from tests.ner.conftest import ambiguous_views

ENCODER = ROOT / "checkpoints/sample/xlm-r"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scratch")
    records.write(folder / "views.jsonl", [view for view in ambiguous_views(40, seed=1) if view.context][:8])
    prepare(ENCODER, folder / "views.jsonl", folder, 4, 2)
    prepare_systems(ENCODER, folder)
    return folder


@pytest.mark.slow  # a benchmark
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_is_compared_with_the_passes_that_it_needs(system: str, scratch: Path) -> None:
    """The encoder reads the tweets' sub-tokens, and for RpBERT twice more those with the regions behind them."""
    read: list[int] = []

    def count(module: torch.nn.Module, _: object, output: object) -> None:
        if type(module).__name__.endswith("Embeddings"):
            assert isinstance(output, torch.Tensor)
            read.append(output.shape[:2].numel())

    alone, step = COMPARISONS[system]
    work = Work(scratch, "text")
    assert SIDES[step][1](work, "cpu")() > 0
    turn = SIDES[alone][1](work, "cpu")
    handle = torch.nn.modules.module.register_module_forward_hook(count)
    try:
        assert turn() > 0
    finally:
        handle.remove()
    n_text = sum(len(row["text_only"]["input_ids"]) for row in work.rows)
    more = 2 * (n_text + N_CELLS * len(work.rows)) if system == "rpbert" else 0
    assert abs(sum(read) - n_text - more) <= 3 * len(work.rows), "but for the rounding of equal lengths"
