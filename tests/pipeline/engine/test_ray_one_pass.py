"""One pass for several kinds on a cluster: the rows of separate passes, and no kind that costs another a row."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.results import PartedResults, Results
from pipeline.core.store import Store, digest
from pipeline.engine import shards, worker
from pipeline.engine.along import Along
from pipeline.engine.asked import Asked
from pipeline.engine.ray import RayEngine
from pipeline.engine.run import Engine, planned
from pipeline.extractors.base import fingerprint_of
from pipeline.extractors.registry import choose
from pipeline.settings.params import EXECUTION
from tests.pipeline.engine.bench import make_pictures
from tests.pipeline.engine.clustered import NEEDED, Booked, InTurn
from tests.pipeline.engine.together import (
    SHARDS,
    SIZES,
    Batched,
    Broken,
    Bucketed,
    Deadly,
    Elsewhere,
    Noted,
    Passes,
    Slow,
    batched,
)

COUNT = 60
RED = "0_0030.png"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of several shards, some with the same bytes, one that is red."""
    for name, size in SHARDS.items():
        monkeypatch.setattr(shards, name, size)
    monkeypatch.setattr(worker, "_ready", {})  # each test is a worker's life
    pictures = tmp_path / "pictures"
    make_pictures(pictures, COUNT)
    for number in (3, 20, 40):
        (pictures / f"1_{number}.png").write_bytes((pictures / f"0_{number:04}.png").read_bytes())
    (pictures / "0_0005.png").write_bytes(b"none")
    Image.new("RGB", (30, 30), (255, 0, 0)).save(pictures / RED)
    return pictures


class OnRay(Passes):
    """Passes by the engine `ray`; of some kinds, by another class.

    Attributes:
        address: of a cluster; None: the tasks run here, in turn.
        fate: of these.
    """

    def __init__(
        self,
        place: Path,
        results: Results | PartedResults,
        address: str | None = None,
        fate: Callable[..., BaseException | None] = lambda *_: None,
        max_seconds: float = 60.0,
        **classes: type[Batched],
    ) -> None:
        chosen = {kind: classes.get(kind, Bucketed if kind == "objects" else Batched) for kind in SIZES}
        self.sections: dict[str, dict[str, Any]] = {}
        for kind, chosen_class in chosen.items():
            name = f"{Batched.__module__}:{chosen_class.__name__}"
            self.sections[kind] = {"extractor": name, name: {"kind": kind}}
        ray = {"address": address, "retries": 1, "max_seconds": max_seconds}
        sizes = {**SIZES, "features": 4, "knowledge": 4}
        self.execution = EXECUTION.model_validate({"engine": "ray", "ray": ray, "batch_size": sizes})
        extractors = {kind: choose(kind, each, "params.yaml").create() for kind, each in self.sections.items()}
        super().__init__(place / "pictures", place / "on ray", results, extractors)
        self.pictures: Noted = Noted(place / "pictures", place / "reads")
        self.address, self.fate = address, fate

    def engine(self, own: str, along: Mapping[str, Callable[[], Along | None]]) -> Engine:
        asked = self.sections[own], self.execution, None, along
        return RayEngine(*asked) if self.address else Booked(*asked, in_turn=InTurn(self.fate))

    def along(self, kind: str) -> Along | None:
        found = super().along(kind)
        return found and dataclasses.replace(found, section=self.sections[kind])

    def asked(self, kind: str, results: Results) -> tuple[worker.Order, worker.Unit]:
        """What a worker is asked for of a kind in the first shard."""
        extractor = self.extractors[kind]
        work = planned(kind, extractor, self.inputs(), results, digest(fingerprint_of(extractor)))
        asked, first = Asked.of(work, self.sections[kind], self.execution), next(work.missing())
        return asked.order, asked.unit(first.shard, first.jobs)


def apart(folder: Path, where: str = "store") -> dict[str, bytes]:
    """The rows of separate passes by the local engine."""
    place = folder.parent / "apart"
    separate = Passes(folder, place, results_of(place, where), batched())
    for kind in SIZES:
        separate.read(kind, along=False)
    return separate.rows()


def results_of(place: Path, where: str) -> Results | PartedResults:
    if where == "store":
        return Store.open(place / "store")
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-ray.lock)")
    return Parts(str(place / "parts"))


def shared(made: OnRay) -> set[str]:
    """Copies in other shards that are read as well, where results lie in parts, as a part is whole in itself."""
    return {f"1_{number}.png" for number in (3, 20, 40)} if isinstance(made.results, Parts) else set()


def test_a_worker_gives_what_it_gives_of_each_kind_alone_and_decodes_once(folder: Path) -> None:
    made, results = OnRay(folder.parent, Store.open(folder.parent / "store")), Store.open(folder.parent / "empty")
    asked = {kind: made.asked(kind, results) for kind in SIZES}
    alone = {kind: worker.read(*one) for kind, one in asked.items()}
    before = made.pictures.reads
    for own in SIZES:
        others = [kind for kind in SIZES if kind != own]
        answer = worker.read(*asked[own], *(asked[kind] for kind in others))
        assert (answer.values, answer.outcome, answer.error) == (alone[own].values, alone[own].outcome, "")
        assert answer.along == {kind: alone[kind] for kind in others}
        count = len(asked[own][1].jobs)
        assert len(answer.values) == count > 8
        reads = made.pictures.reads - before
        assert (set(reads.values()), len(reads)) == ({1}, count)
        before = made.pictures.reads


def test_another_kinds_error_ends_nothing_and_ones_own_keeps_what_others_found(folder: Path) -> None:
    made = OnRay(folder.parent, Store.open(folder.parent / "store"), ocr=Broken)
    results = Store.open(folder.parent / "empty")
    asked = {kind: made.asked(kind, results) for kind in SIZES}
    order, unit = asked["captions"]
    other = dataclasses.replace(order, fingerprint={**order.fingerprint, "version": 7})
    answer = worker.read(*asked["objects"], (other, unit), asked["ocr"])
    assert (len(answer.values), answer.error) == (len(asked["objects"][1].jobs), "")
    assert answer.along["captions"].error.startswith("captions: node ")
    assert answer.along["captions"].error.endswith(
        "version 1 for 7. Put the same checkpoints, packages and programs on all of them"
    )
    assert answer.along["captions"].values == {}
    assert answer.along["ocr"].error.startswith("ocr: Broken gave 0 results for 3 pictures")
    assert len(answer.along["ocr"].values) == 2 * SIZES["ocr"]
    worker._ready.clear()
    answer = worker.read(*asked["ocr"], asked["objects"])
    assert answer.error.startswith("ocr: Broken gave 0 results for 3 pictures")
    assert answer.along["objects"].error == ""
    assert 0 < len(answer.along["objects"].values) < len(unit.jobs)


@NEEDED
@pytest.mark.parametrize("where", ["store", "parts"])
def test_the_books_give_the_rows_of_separate_passes_and_each_picture_is_decoded_once(
    folder: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = OnRay(folder.parent, results_of(folder.parent, where))
    assert str(made.read("captions")).endswith("failed")
    said = capsys.readouterr().err
    assert all(f"{kind}, along with captions: " in said for kind in ("objects", "ocr"))
    assert set(made.pictures.reads.values()) == {1}
    before = made.pictures.reads
    for kind in ("objects", "ocr"):
        assert str(made.read(kind)).startswith("63 pictures: 0 read, 62 from the store, 1 failed")
    assert made.rows() == apart(folder, where)
    assert made.pictures.reads == before


@NEEDED
def test_a_shard_that_its_worker_dies_of_is_read_again_without_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.exceptions import WorkerCrashedError

    def fate(unit: worker.Unit, *along: tuple[worker.Order, worker.Unit]) -> BaseException | None:
        of_captions = [theirs for order, theirs in along if order.kind == "captions"]
        return WorkerCrashedError() if any(job.name == RED for one in of_captions for job in one.jobs) else None

    made = OnRay(folder.parent, Store.open(folder.parent / "store"), fate=fate)
    made.read("objects")
    said = capsys.readouterr().err
    assert "objects: the process that read a shard with captions, ocr along has ended without a word" in said
    for kind in ("ocr", "captions"):
        assert " 0 read, " not in str(made.read(kind, along=False)), "the shard was left to it"
    assert made.rows() == apart(folder)


@NEEDED
def test_another_kind_that_breaks_is_left_to_its_own_stage_and_ones_own_error_ends_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = OnRay(folder.parent, Store.open(folder.parent / "store"), ocr=Broken)
    made.read("objects")
    said = capsys.readouterr().err
    assert said.count("objects: ocr is not read along, but left to its own stage: ocr: Broken gave 0 results for") == 1
    assert f"ocr, along with objects: {2 * SIZES['ocr']} read, 0 failed" in said, "what it had found is kept"
    assert " 0 read, " in str(made.read("captions"))
    worker._ready.clear()
    again = OnRay(folder.parent, Store.open(folder.parent / "another store"), ocr=Broken)
    with pytest.raises(UserError, match="ocr: Broken gave 0 results for 3 pictures"):
        again.read("ocr")
    more = OnRay(folder.parent, again.results)
    for kind in SIZES:
        found = str(more.read(kind, along=False))
        assert f" {COUNT - 1} read" not in found, "what was found with it is kept"
    assert more.rows() == apart(folder)


@NEEDED
def test_where_workers_keep_dying_nothing_is_read_along_any_more(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.exceptions import OutOfMemoryError

    asked: list[int] = []

    def fate(_unit: worker.Unit, *along: Any) -> BaseException | None:
        asked.append(len(along))
        return OutOfMemoryError("") if along else None

    made = OnRay(folder.parent, Store.open(folder.parent / "store"), fate=fate)
    for name in ("MEAN", "LEAST", "MOST"):
        setattr(shards, name, 3)
    assert str(made.read("objects")).startswith(f"63 pictures: {COUNT - 1} read, ")
    said = capsys.readouterr().err
    assert said.count("is read again without") == sum(map(bool, asked)) < 6
    for kind in ("captions", "ocr"):
        assert f"{kind} is not read along, but left to its own stage: workers die of 3 shards in a row" in said


@NEEDED
@pytest.mark.slow
@pytest.mark.parametrize("where", ["store", "parts"])
def test_two_nodes_give_the_rows_of_separate_passes_and_decode_once(folder: Path, cluster: Any, where: str) -> None:
    made = OnRay(folder.parent, results_of(folder.parent, where), cluster.address)
    assert made.read("captions").failed == 1  # type: ignore[union-attr]
    before = made.pictures.reads
    assert set(before.values()) == {1}
    assert len(before) == COUNT - 1 + len(shared(made))
    for kind in ("objects", "ocr"):
        assert str(made.read(kind)).startswith("63 pictures: 0 read, 62 from the store, 1 failed")
    assert made.rows() == apart(folder, where)
    assert made.pictures.reads == before


@NEEDED
@pytest.mark.slow
def test_a_kind_that_kills_breaks_or_is_another_one_costs_no_other_a_row(
    folder: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = OnRay(folder.parent, Store.open(folder.parent / "store"), cluster.address, captions=Deadly, ocr=Elsewhere)
    monkeypatch.setenv("ONLY_OF_THE_DRIVER", "a newer Tesseract")
    assert str(made.read("objects")).startswith(f"63 pictures: {COUNT - 1} read, 3 from the store, 1 failed")
    said = capsys.readouterr().err
    assert "objects: ocr is not read along, but left to its own stage: ocr: node " in said
    assert "reads with another extractor than this machine: host None for 'a newer Tesseract'" in said
    assert "objects: the process that read a shard with captions" in said
    expected = apart(folder)
    assert made.rows()["objects"] == expected["objects"]
    with pytest.raises(UserError, match="reads with another extractor than this machine"):
        made.read("ocr", along=False)
    made.read("captions", along=False)
    found, rows = made.rows()["captions"], expected["captions"]
    assert found.count(b"the process that read it has ended without a word") == 1
    unlike = [line for line, other in zip(found.splitlines(), rows.splitlines(), strict=True) if line != other]
    assert any(RED.encode() in line and b'"failed"' in line for line in unlike)
    assert len(unlike) <= SIZES["captions"], "only of the batch that it stood in are others read apart"


@NEEDED
@pytest.mark.slow
def test_progress_of_any_kind_counts(folder: Path, cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The own one's batch comes after six of another's, which take longer than a worker may say nothing."""
    for path in list(folder.iterdir())[21:]:
        path.unlink()
    for name in ("MEAN", "LEAST", "MOST"):
        setattr(shards, name, 100)
    made = OnRay(folder.parent, Store.open(folder.parent / "store"), cluster.address, max_seconds=4, ocr=Slow)
    sizes = made.execution.batch_size.model_copy(update={"captions": 100})
    made.execution = made.execution.model_copy(update={"batch_size": sizes})
    made.read("captions")
    assert "is read again without" not in capsys.readouterr().err
    assert " 0 read, " in str(made.read("ocr"))
