"""The manifest over shards: shared out among processes, kept in the store or as parts, to the same rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.store import Store
from pipeline.engine import images
from pipeline.engine.shards import Part
from pipeline.images import manifest as of_one_machine
from pipeline.images.remote import Objects
from tests.pipeline.engine.album import BROKEN, LIMITS, MISSING, Album, expected, make, rows, settle, written
from tests.pipeline.images.made import encoded, two_halves

pytestmark = pytest.mark.usefixtures("small_shards")


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    return make(tmp_path / "images")


@pytest.fixture
def place(tmp_path: Path, names: list[str]) -> Album:
    return Album(tmp_path / "images", tmp_path / "log")


def made(kept: str, tmp_path: Path) -> Any:
    """Where results go; a new one of them, as another process has it."""
    if kept == "store":
        return Store.open(tmp_path / "store")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-ray.lock)")
    return Parts(str(tmp_path / "parts"))


@pytest.mark.parametrize("kept", ["store", "parts"])
def test_the_rows_are_those_of_one_machine_and_nothing_is_read_twice(
    tmp_path: Path, names: list[str], place: Album, kept: str
) -> None:
    found = rows(names, place, made(kept, tmp_path))
    by_name = {row["image"]: row for row in map(json.loads, found.splitlines())}
    assert list(by_name) == sorted(set(names))
    assert [by_name[name]["status"] for name in BROKEN] == ["truncated", "unreadable", "unreadable", "too_large"]
    assert [by_name[name]["status"] for name in MISSING] == ["missing", "missing", "unsafe_name"]
    assert found == written(of_one_machine.manifest(names, tmp_path / "images", LIMITS))
    assert len(place.read_names()) == len(set(names))
    place.log.unlink()
    assert rows(names, place, made(kept, tmp_path)) == found
    assert sorted(place.read_names()) == sorted(MISSING), "of which nothing is known"


@pytest.mark.parametrize("kept", ["store", "parts"])
def test_processes_share_out_the_shards_and_the_stage_reads_nothing_again(
    tmp_path: Path, names: list[str], place: Album, kept: str
) -> None:
    wanted = expected(names, place, tmp_path / "other store")
    read = []
    for number in range(3):
        found = rows(names, place, made(kept, tmp_path), Part(number, 3)).splitlines(keepends=True)
        assert set(found) <= set(wanted.splitlines(keepends=True))
        read.append(len(found))
    assert sum(read) == len(set(names)) == len(place.read_names())
    assert min(read) > 5
    place.log.unlink()
    assert rows(names, place, made(kept, tmp_path)) == wanted
    assert set(place.read_names()) == set(MISSING)
    new, changed = tmp_path / "images" / MISSING[0], tmp_path / "images" / names[3]
    for path in (new, changed):
        path.write_bytes(encoded(two_halves(33, 20), "PNG"))
    settle(new, changed)
    place.log.unlink()
    later = {row["image"]: row for row in map(json.loads, rows(names, place, made(kept, tmp_path)).splitlines())}
    assert [(later[path.name]["status"], later[path.name]["width"]) for path in (new, changed)] == [("ok", 33)] * 2
    assert set(place.read_names()) == {*MISSING, changed.name}


@pytest.mark.parametrize("kept", ["store", "parts"])
def test_a_network_that_fails_is_an_error_and_what_was_read_before_is_kept(
    tmp_path: Path, names: list[str], place: Album, kept: str
) -> None:
    failing = Album(tmp_path / "images", tmp_path / "log", broken="0_0044.png")
    with pytest.raises(UserError, match=r"0_0044\.png: the network is down"):
        rows(names, failing, made(kept, tmp_path))
    place.log.unlink()
    rows(names, place, made(kept, tmp_path))
    assert {"0_0000.png", "0_0010.text.jpg"}.isdisjoint(place.read_names())
    assert "0_0044.png" in place.read_names()


def test_of_objects_without_a_state_no_part_is_examined(tmp_path: Path) -> None:
    place = Objects(f"file://{tmp_path}", LIMITS)
    with pytest.raises(UserError, match=r"--part 0/2: nothing tells the state of .* data\.listing"):
        images.manifest([], place, LIMITS, made("store", tmp_path), part=Part(0, 2))
