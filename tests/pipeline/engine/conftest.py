"""A cluster of processes of this machine, for the tests of the engine `ray`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import shards
from tests.pipeline.engine.clustered import Place


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each; one of them holds the cluster together."""
    utils = pytest.importorskip("ray.cluster_utils", reason="ray is not installed (requirements-ray.lock)")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        made.add_node(num_cpus=1)
        yield made
    finally:
        made.shutdown()


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of some eight pictures."""
    for name, size in (("MEAN", 8), ("LEAST", 2), ("MOST", 20)):
        monkeypatch.setattr(shards, name, size)


@pytest.fixture
def place(tmp_path: Path, small_shards: None) -> Place:
    """Pictures, and what the local engine makes of them."""
    return Place(tmp_path)
