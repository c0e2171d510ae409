"""A training on a CPU: its memory stays where its first steps bring it, however batches change their size."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

TRAINING = """
import os, random
from pathlib import Path
import torch
from pipeline.core import memory

torch.set_num_threads(1)
memory.keep_few_kernels()
layers = torch.nn.ModuleList(torch.nn.Linear(256, 256) for _ in range(3))
rng = random.Random(0)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

for step in range(96):
    values = torch.randn(rng.randint(200, 3000), 256)
    with torch.autocast("cpu", torch.bfloat16):
        for layer in layers:
            values = torch.nn.functional.gelu(layer(values)) + values
    values.float().square().mean().backward()
    layers.zero_grad()
    del values
    if step + 1 in (8, 96):
        print(resident())
"""


@pytest.mark.slow  # a hundred steps
def test_a_training_whose_batches_change_their_size_does_not_grow() -> None:
    """In a process of its own; without bounds on what is kept for each shape, memory grows by four fifths."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINING],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    early, late = map(int, done.stdout.split())
    assert late <= 1.15 * early
