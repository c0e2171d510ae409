"""The manifest on a cluster: the bytes of the local engine, whatever is lost, and no more tries than params have."""

import json
import os
import platform
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.store import Store
from pipeline.engine import images
from pipeline.images.digests import Digests, Listed, write
from pipeline.images.pictures import StampedPictures
from pipeline.images.remote import Objects, Tars
from pipeline.settings.params import RayExecution
from tests.pipeline.engine.album import LIMITS, MISSING, Album, expected, make, rows, written
from tests.pipeline.engine.clustered import NEEDED
from tests.project import wait_for

pytestmark = pytest.mark.usefixtures("small_shards")


class Place:
    """Pictures, and the rows that the local engine makes of them."""

    def __init__(self, place: Path) -> None:
        self.place, self.folder, self.log = place, place / "images", place / "log"
        self.names = make(self.folder)
        self.album = Album(self.folder, self.log)
        self.expected = expected(self.names, self.album, place / "local store")

    def results(self, kept: str = "store") -> Any:
        """Where results of workers go; a new one of them."""
        if kept == "store":
            return Store.open(self.place / "store")
        pytest.importorskip("pyarrow")
        return Parts(str(self.place / "parts"))

    def albums(self, **options: Any) -> Album:
        return Album(self.folder, self.log, **options)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_ray_there_is_one_message(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"ray: it is not installed here .*requirements-ray\.lock"):
        rows(place.names, place.album, place.results(), address="127.0.0.1:1")


def test_what_is_known_needs_no_cluster(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with Store.open(place.place / "local store") as store:
        known = sorted(set(place.names) - set(MISSING))
        assert len(rows(known, place.album, store, num_cpus=1).splitlines()) == len(known)
    assert not place.log.exists()


def test_a_worker_without_the_project_says_so(place: Place) -> None:
    order = images.Order("/no/such/folder", LIMITS, None, 60.0)
    answer = images.examine(order, "first", place.names[:2], place.album)
    assert answer.error.startswith("node ")
    assert "has no folder /no/such/folder" in answer.error
    assert (answer.rows, answer.values) == ([], {})


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize("kept", ["store", "parts"])
def test_two_nodes_give_the_bytes_of_the_local_engine(
    place: Place, cluster: Any, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    slow, made, make_remote = place.albums(seconds=0.02), list[Any](), ray.remote

    def remote(*functions: Any, **options: Any) -> Any:
        made.append(options)
        return make_remote(*functions, **options)

    monkeypatch.setattr(ray, "remote", remote)
    assert rows(place.names, slow, place.results(kept), address=cluster.address) == place.expected
    ours = [options for options in made if "max_retries" in options]  # Ray has some of its own
    assert len(ours) == 1, "the head keeps each remote function, so one serves all shards"
    assert sorted(slow.read_names()) == sorted(set(place.names))
    assert len(slow.readers()) == 2
    place.log.unlink()
    assert rows(place.names, slow, place.results(kept)) == place.expected, "the local engine finds what they found"
    assert sorted(slow.read_names()) == sorted(MISSING)


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize("deaths", [2, 3])
def test_a_worker_that_dies_is_tried_again_as_often_as_params_have_it(place: Place, cluster: Any, deaths: int) -> None:
    deadly = "0_0031.png"
    album = place.albums(deadly=deadly, deaths=deaths)
    results = place.results("parts")
    if deaths == 2:
        assert rows(place.names, album, results, address=cluster.address, retries=2) == place.expected
    else:
        message = r"^images: 3 of 3 workers were lost under one shard, of .* the last has ended without a word"
        with pytest.raises(UserError, match=message):
            rows(place.names, album, results, address=cluster.address, retries=2)
    assert album.read_names().count(deadly) == 3
    place.log.unlink()
    assert rows(place.names, place.album, place.results("parts")) == place.expected
    assert (deadly in place.album.read_names()) == (deaths == 3)
    assert "0_0000.png" not in place.album.read_names(), "what was found before is kept"


@NEEDED
@pytest.mark.slow
def test_a_worker_that_hangs_is_ended(place: Place, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = LIMITS.model_copy(update={"max_seconds": 0.05})
    monkeypatch.setattr("tests.pipeline.engine.album.LIMITS", limits)
    album = place.albums(seconds=60)
    with pytest.raises(UserError, match=r"1 of 1 workers were lost .* made no progress for execution\."):
        rows(place.names[:4], album, place.results(), address=cluster.address, retries=0, max_seconds=1)


@NEEDED
@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_row(place: Place, cluster: Any) -> None:
    node = cluster.add_node(num_cpus=2)
    album = place.albums(seconds=0.1)

    def lose() -> None:
        wait_for(lambda: len(album.readers()) >= 3)
        cluster.remove_node(node, allow_graceful=False)

    lost = threading.Thread(target=lose)
    lost.start()
    try:
        assert rows(place.names, album, place.results(), address=cluster.address, retries=2) == place.expected
    finally:
        lost.join()


@NEEDED
@pytest.mark.slow
def test_a_node_that_does_not_see_the_pictures_makes_no_row_of_it(place: Place, cluster: Any) -> None:
    blind, results = place.albums(sighted=os.getpid()), place.results()
    message = rf"^images: node {platform.node()} cannot read 0_0000\.png \(missing: No such .*data\.images"
    with pytest.raises(UserError, match=message):
        rows(place.names, blind, results, address=cluster.address)
    assert rows(place.names, place.album, results, address=cluster.address) == place.expected


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize("kept", ["store", "parts"])
def test_a_network_that_fails_there_ends_it_with_its_message(place: Place, cluster: Any, kept: str) -> None:
    album = place.albums(broken="0_0044.png")
    with pytest.raises(UserError, match=r"^0_0044\.png: the network is down$"):
        rows(place.names, album, place.results(kept), address=cluster.address)
    place.log.unlink()
    assert rows(place.names, place.album, place.results(kept)) == place.expected
    assert "0_0000.png" not in place.album.read_names()


@NEEDED
@pytest.mark.slow
def test_pictures_of_tars_of_a_url_and_of_a_listing_are_examined_there(place: Place, cluster: Any) -> None:
    sound = sorted(path.name for path in place.folder.iterdir())
    with tarfile.open(place.place / "0.tar", "w") as tar:
        for name in sound:
            tar.add(place.folder / name, name)
    names, results = [*sound, *MISSING[:2]], place.results()
    tars = Tars(str(place.place / "0.tar"), LIMITS, results)
    listing = place.place / "pictures.sha256"
    write(sound, place.album, listing, results)
    objects = Objects(f"file://{place.folder}", LIMITS)
    unlisted: list[StampedPictures] = [tars, objects, place.album]
    for number, pictures in enumerate([*unlisted[:2], *(Listed(one, Digests(listing)) for one in unlisted)]):
        local, there = (Store.open(place.place / f"{name} {number}") for name in ("local", "there"))
        wanted = written(images.manifest(names, pictures, LIMITS, local))
        assert [json.loads(row)["status"] for row in wanted.splitlines()].count("ok") > 50
        ray = RayExecution(address=cluster.address)
        assert written(images.manifest(names, pictures, LIMITS, there, ray=ray)) == wanted
        assert written(images.manifest(names, pictures, LIMITS, there)) == wanted
