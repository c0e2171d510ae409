"""What a process may use of its machine."""

import os

import pytest

from pipeline.core.machine import CORES, cores


def test_a_process_that_shares_its_machine_uses_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CORES, raising=False)
    allowed = len(os.sched_getaffinity(0))
    assert cores() == allowed
    for given, expected in (("1", 1), (str(allowed + 7), allowed), ("0", allowed), ("many", allowed)):
        monkeypatch.setenv(CORES, given)
        assert cores() == expected
