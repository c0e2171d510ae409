"""The engine `ray`: the bytes of the local one, whatever dies: a picture's process, a worker, a node, the driver."""

import dataclasses
import json
import os
import platform
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.store import Store
from pipeline.engine import worker
from pipeline.engine.ray import RayEngine
from pipeline.engine.run import extract
from pipeline.extractors.registry import choose
from pipeline.settings import params
from pipeline.settings.params import EXECUTION
from tests.conftest import ROOT
from tests.pipeline.engine import clustered
from tests.pipeline.engine.album import Album
from tests.pipeline.engine.bench import figures, make_pictures, rows_of
from tests.pipeline.engine.clustered import COUNT, NEEDED, Booked, InTurn, Place, execution, run
from tests.project import wait_for

pytestmark = pytest.mark.usefixtures("small_shards")


def test_without_ray_there_is_one_message(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"ray: it is not installed here .*requirements-ray\.lock"):
        place.run(execution("127.0.0.1:1"))  # a cluster of its own would leave a token in this process
    assert not place.bench.output.exists()


def test_what_is_stored_needs_no_cluster(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert place.run(execution(), place.bench.store) == (0, COUNT, 0)
    assert place.same


@NEEDED
@pytest.mark.parametrize("deadly", ["0_0007.png", "0_0031.png"])
def test_tries_are_bounded_and_the_rest_is_read_in_the_batches_of_an_undisturbed_run(place: Place, deadly: str) -> None:
    """Of the books alone; processes that die in truth are below."""
    from ray.exceptions import WorkerCrashedError

    def fate(unit: worker.Unit) -> BaseException | None:
        read = [job for batch in unit.only for job in batch] or unit.jobs
        planning = not unit.only and sum(shard == unit.shard for shard in asked) == 1 + settings.retries
        asked.append(unit.shard)
        return WorkerCrashedError() if any(job.name == deadly for job in read) and not planning else None

    asked: list[str] = []
    settings = execution().ray
    in_turn = InTurn(fate)
    results = Store.open(place.place / "other store")
    choice = choose("captions", clustered.section(), "params.yaml")

    found = extract(
        *("captions", choice.create(), rows_of(place.bench.folder), place.bench.folder, place.bench.output, results, 4),
        engine=Booked(clustered.section(), execution(), in_turn=in_turn),
    )
    assert figures(found) == (COUNT - 1, 0, 1)
    rows, expected = place.rows(), {row["image"]: row for row in map(json.loads, place.expected.splitlines())}
    assert rows[deadly]["error"].startswith("the process that read it has ended without a word")
    mates = {name for name, row in rows.items() if row != expected[name]}
    assert deadly in mates
    assert len(mates) <= 4, "only of the batch that it stood in are others read apart"
    shard = max((unit.jobs for unit in in_turn.units if any(job.name == deadly for job in unit.jobs)), key=len)
    tries = sum(any(job.name == deadly for job in unit.jobs) for unit in in_turn.units)
    assert tries <= (settings.retries + 1) * (len(shard).bit_length() + 1)


def unit_of(place: Place) -> tuple[worker.Order, worker.Unit]:
    from pipeline.engine.inputs import PictureInputs
    from pipeline.engine.plan import lacking
    from pipeline.images.pictures import Folder
    from pipeline.settings.params import ImagesParams

    limits = ImagesParams()
    inputs = PictureInputs(rows_of(place.bench.folder), Folder(place.bench.folder, limits), limits)
    first = next(lacking(inputs, Store.open(place.place / "empty"), "ab" * 32))
    extractor = choose("captions", clustered.section(), "params.yaml").create()
    fingerprint = dict(extractor.fingerprint())  # type: ignore[union-attr]
    settings = execution().model_dump(mode="json")
    order = worker.Order("captions", clustered.section(), settings, os.getcwd(), fingerprint, None, 60.0)
    return order, worker.Unit(first.shard, first.jobs, inputs.of(first.jobs), [])


def test_a_worker_with_another_extractor_refuses_its_shard(place: Place) -> None:
    order, unit = unit_of(place)
    other = dataclasses.replace(order, fingerprint={**order.fingerprint, "version": 7, "packages": {"a": 1}})
    answer = worker.read(other, unit)
    assert answer.error.startswith("captions: node ")
    assert "reads with another extractor than this machine: packages None for" in answer.error
    assert "version 1 for 7" in answer.error
    assert answer.values == {}
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0), "no clock runs on"
    elsewhere = worker.read(dataclasses.replace(other, folder="/no/such/folder"), unit)
    assert "has no folder /no/such/folder" in elsewhere.error
    worker._ready.clear()
    assert len(worker.read(order, unit).values) == len(unit.jobs)


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize("kept", ["store", "parts"])
def test_two_nodes_give_the_bytes_of_the_local_engine(place: Place, cluster: Any, kept: str) -> None:
    results = Parts(str(place.place / "parts")) if kept == "parts" else None
    assert place.run(execution(cluster.address), results, seconds=0.02) == (COUNT, 0, 0)
    assert place.same
    assert len({process for process, _ in place.logged()}) == 2
    assert {used for _, used in place.logged("load")} == {1}, "each as many threads as its num_cpus"
    assert place.run(execution(cluster.address), results) == (0, COUNT, 0)
    names = make_pictures(place.bench.folder, 2, seed=9)
    place.log.unlink()
    assert place.run(execution(cluster.address), results and Parts(str(place.place / "parts"))) == (2, COUNT, 0)
    assert sum(count for _, count in place.logged()) == len(names)


@NEEDED
@pytest.mark.slow
def test_a_picture_that_kills_and_one_that_hangs_are_rows_and_no_others(place: Place, cluster: Any) -> None:
    for name, colour in (("0_0007.png", (255, 0, 0)), ("0_0031.png", (0, 255, 0))):
        Image.new("RGB", (9, 9), colour).save(place.bench.folder / name)
    settings = execution(cluster.address, retries=1, max_seconds=8)
    started = time.monotonic()
    assert place.run(settings) == (COUNT - 2, 0, 2)
    rows = place.rows()
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"0_0007.png", "0_0031.png"}
    for name in ("0_0007.png", "0_0031.png"):
        assert rows[name]["error"].startswith("the process that read it has ended without a word, or made no progress")
    begun, read = Counter(count for _, count in place.logged()), Counter(count for _, count in place.logged("read"))
    died = sum(begun.values()) - sum(read.values())
    assert died <= 2 * (1 + 1) * (5 + 1), "(retries + 1) × (log2 of a shard's 20 rows + 1) for each of the two"
    assert time.monotonic() - started < 150


@NEEDED
@pytest.mark.slow
def test_workers_killed_at_random_moments_change_no_byte(place: Place, cluster: Any) -> None:
    rng, done = random.Random(5), threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while len(killed) < 10 and not done.wait(rng.uniform(0.1, 0.9)):
            alive = [process for process, _ in place.logged() if psutil.pid_exists(process)]
            if alive and psutil.Process(alive[-1]).status() != psutil.STATUS_ZOMBIE:
                os.kill(alive[-1], signal.SIGKILL)
                killed.append(alive[-1])

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        assert place.run(execution(cluster.address, retries=12), seconds=0.05) == (COUNT, 0, 0)
    finally:
        done.set()
        thread.join()
    assert place.same
    assert len(killed) >= 3
    read = sum(count for _, count in place.logged())
    assert read <= COUNT + 20 * len(killed), "a worker's death costs its shard, of 20 rows at most"


@NEEDED
@pytest.mark.slow
def test_a_node_that_is_lost_costs_no_row(place: Place, cluster: Any) -> None:
    node = cluster.add_node(num_cpus=2)

    def lose() -> None:
        wait_for(lambda: len({process for process, _ in place.logged()}) >= 3)
        cluster.remove_node(node, allow_graceful=False)

    lost = threading.Thread(target=lose)
    lost.start()
    try:
        assert place.run(execution(cluster.address, retries=0), seconds=0.1) == (COUNT, 0, 0)
    finally:
        lost.join()
    assert place.same


@NEEDED
@pytest.mark.slow
def test_a_node_that_makes_another_extractor_is_named(
    place: Place, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_OF_THE_DRIVER", "a newer Tesseract")
    with pytest.raises(UserError, match=r"node .* reads with another extractor than this machine: host None for"):
        place.run(execution(cluster.address), host="ONLY_OF_THE_DRIVER")
    assert not place.bench.output.exists()


@NEEDED
@pytest.mark.slow
def test_a_node_that_does_not_see_the_pictures_is_named(place: Place, cluster: Any) -> None:
    place.pictures = Album(place.bench.folder, place.place / "reads", sighted=os.getpid())
    message = rf"^captions: node {platform.node()} cannot read \S+ \(No such .*data\.images"
    with pytest.raises(UserError, match=message):
        place.run(execution(cluster.address))
    assert not place.bench.output.exists()
    place.pictures = None
    assert place.run(execution(cluster.address)) == (COUNT, 0, 0)
    assert place.same


@NEEDED
@pytest.mark.slow
def test_a_picture_that_no_machine_sees_any_more_is_a_row(place: Place, cluster: Any) -> None:
    manifest = rows_of(place.bench.folder)
    (place.bench.folder / "0_0007.png").unlink()
    output, results = place.bench.output, Store.open(place.place / "other store")
    captioner = choose("captions", clustered.section(), "params.yaml").create()
    engine = RayEngine(clustered.section(), execution(cluster.address))
    found = extract("captions", captioner, manifest, place.bench.folder, output, results, 4, engine=engine)
    assert figures(found) == (COUNT - 1, 0, 1)


@NEEDED
@pytest.mark.slow
def test_a_batched_model_gives_the_same_bytes_on_two_nodes(tmp_path: Path, cluster: Any) -> None:
    """The sample's BLIP, whose floats the other pictures of a batch may move."""
    folder = ROOT / "sample/data/images"
    rows = rows_of(folder, sorted(path.name for path in folder.iterdir())[:100])
    section = params.load(ROOT / "params.yaml").extraction("captions")
    outputs = []
    for number, engine_of_run in enumerate((None, RayEngine(section, execution(cluster.address)))):
        output = tmp_path / f"{number}.jsonl"
        captioner = choose("captions", section, "params.yaml").create(EXECUTION())
        found = extract(
            *("captions", captioner, rows, folder, output, Store.open(tmp_path / f"store {number}"), 4),
            engine=engine_of_run,
        )
        assert found.read > 90
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b'"text"') > 90


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize("on_cluster", [False, True])
def test_ten_new_pictures_among_10000_cost_ten(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch, on_cluster: bool
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.undo()  # shards of their true size
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "own"))
    folder, log = tmp_path / "images", tmp_path / "log"
    make_pictures(folder, 10_000)
    settings = execution(cluster.address) if on_cluster else None
    options = {"log": str(log)}

    def read(**more: Any) -> tuple[int, int]:
        log.unlink(missing_ok=True)
        found = run(folder, tmp_path / "out.jsonl", Parts(str(tmp_path / "parts")), {**options, **more}, settings)
        lines = log.read_text(encoding="ascii").splitlines() if log.exists() else []
        assert sum(int(line.split()[2]) for line in lines if " read " in line) == found.read
        return found.read, found.from_store

    assert read() == (10_000, 0)
    make_pictures(folder, 10, seed=1)
    assert read() == (10, 10_000)
    assert read(version=2) == (10_010, 0)
    assert read() == (0, 10_010), "going back costs nothing"
