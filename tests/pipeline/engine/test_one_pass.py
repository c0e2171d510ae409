"""One pass for several kinds: the rows of separate passes, a picture decoded once, no errors but those of one's own."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.records import ObjectTag
from pipeline.core.results import PartedResults, Results
from pipeline.core.store import Store, digest
from pipeline.engine import one_pass, shards
from pipeline.engine.along import Along
from pipeline.engine.inputs import LabelledPictures
from pipeline.engine.one_pass import OnePass
from pipeline.engine.outcome import Outcome
from pipeline.engine.run import run
from pipeline.engine.shards import Part
from pipeline.extractors.base import fingerprint_of
from pipeline.settings.params import ImagesParams
from tests.pipeline.engine.bench import colour, make_pictures
from tests.pipeline.engine.together import (
    SHARDS,
    SIZES,
    Batched,
    Broken,
    Bucketed,
    Deadly,
    Drawing,
    Fussy,
    Passes,
    batched,
)

ROOT = Path(__file__).resolve().parents[3]
COUNT = 60


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures of several shards, some with the same bytes."""
    for name, size in SHARDS.items():
        monkeypatch.setattr(shards, name, size)
    make_pictures(tmp_path / "pictures", COUNT)
    for number in (3, 20, 40):
        (tmp_path / "pictures" / f"1_{number}.png").write_bytes(
            (tmp_path / "pictures" / f"0_{number:04}.png").read_bytes()
        )
    (tmp_path / "pictures" / "0_0005.png").write_bytes(b"none")
    return tmp_path / "pictures"


def passes(
    folder: Path, name: str, extractors: dict[str, Any], results: Results | PartedResults | None = None
) -> Passes:
    place = folder.parent / name
    return Passes(folder, place, results or Store.open(place / "store"), extractors)


def apart(folder: Path, extractors: dict[str, Any]) -> dict[str, bytes]:
    """The rows of separate passes."""
    separate = passes(folder, "apart", extractors)
    for kind in extractors:
        separate.read(kind, along=False)
    assert set(separate.pictures.reads.values()) == {len(extractors)}
    return separate.rows()


def stored(made: Passes, kind: str) -> int:
    """How many results a kind has in the store."""
    inputs = made.inputs()
    keys = [inputs.job(row).key for row in inputs.rows() if row["status"] == "ok"]
    assert isinstance(made.results, Store)
    return len(made.results.known(digest(fingerprint_of(made.extractors[kind])), keys))


@pytest.mark.parametrize("own", SIZES)
def test_the_rows_are_those_of_separate_passes_and_each_picture_is_decoded_once(
    folder: Path, own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = apart(folder, batched())
    assert len(list(shards.cut(passes(folder, "cut", {}).inputs().rows()))) > 2
    together = passes(folder, "together", batched())
    seen = {kind: extractor.seen for kind, extractor in together.extractors.items()}
    assert str(together.read(own)).startswith(f"63 pictures: {COUNT - 1} read, 3 from the store, 1 failed")
    others = [kind for kind in SIZES if kind != own]
    said = capsys.readouterr().err
    assert all(f"{kind}, along with {own}: {COUNT - 1} read, 0 failed\n" in said for kind in others)
    batches = {kind: list(sizes) for kind, sizes in seen.items()}
    for kind in others:
        assert str(together.read(kind)).startswith("63 pictures: 0 read, 62 from the store, 1 failed")
    assert together.rows() == expected
    assert seen == batches, "the others' own stages read nothing"
    assert set(together.pictures.reads.values()) == {1}
    assert len(together.pictures.reads) == COUNT - 1


def test_what_some_have_already_is_read_by_those_that_lack_it(folder: Path) -> None:
    """Shard by shard, whatever each kind lacks there; what the own kind lacks nowhere is left to the next stage."""
    expected = apart(folder, batched())
    together = passes(folder, "together", batched())
    together.read("ocr", Part(0, 2), along=False)
    together.read("objects", Part(1, 2), along=False)
    before = together.pictures.reads.copy()
    for kind in ("captions", "ocr", "objects"):
        together.read(kind)
    assert together.rows() == expected
    assert set((together.pictures.reads - before).values()) == {1}


def test_less_memory_gives_the_same_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that is let go before all have it is decoded once more."""
    expected = apart(folder, batched())
    monkeypatch.setattr(one_pass, "_HELD_PIXELS", 4_000)
    together = passes(folder, "together", batched())
    for kind in SIZES:
        together.read(kind)
    assert together.rows() == expected
    assert COUNT < sum(together.pictures.reads.values()) <= 3 * COUNT


def test_an_extractor_that_draws_on_its_pictures_draws_on_nobody_elses(folder: Path) -> None:
    expected = apart(folder, batched(objects=Batched))
    together = passes(folder, "together", batched(objects=Drawing, captions=Drawing, ocr=Drawing))
    for kind in SIZES:
        together.read(kind)
    assert together.rows() == expected


def test_an_extractor_that_fails_on_a_picture_fails_there_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (30, 30), (255, 0, 0)).save(folder / "0_0030.png")
    extractors = batched(captions=Fussy)
    expected = apart(folder, extractors)
    assert b'"ValueError: red"' in expected["captions"]
    together = passes(folder, "together", batched(captions=Fussy))
    together.read("objects")
    assert "captions, along with objects: 58 read, 1 failed" in capsys.readouterr().err
    for kind in ("captions", "ocr"):
        together.read(kind)
    assert together.rows() == expected
    assert together.pictures.reads.pop("0_0030.png") == 2, "what failed is tried again by its own stage"
    assert set(together.pictures.reads.values()) == {1}


def test_another_kind_that_breaks_is_left_to_its_own_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = apart(folder, batched())
    together = passes(folder, "together", batched(captions=Broken))
    together.read("objects")
    said = "objects: captions is not read along, but left to its own stage: captions: Broken gave 0 results for "
    assert said in capsys.readouterr().err
    assert stored(together, "captions") > 0, "what it had found is kept"
    assert stored(together, "ocr") == COUNT - 1
    with pytest.raises(UserError, match="Broken gave 0 results"):
        together.read("captions")
    together.extractors = batched()
    for kind in SIZES:
        together.read(kind)
    assert together.rows() == expected


def test_ones_own_error_ends_the_run_and_loses_nobodys_results(folder: Path) -> None:
    expected = apart(folder, batched())
    together = passes(folder, "together", batched(captions=Broken))
    with pytest.raises(UserError, match="captions: Broken gave 0 results"):
        together.read("captions")
    kept = {kind: stored(together, kind) for kind in SIZES}
    assert all(0 < count < COUNT - 1 for count in kept.values()), kept
    together.extractors = batched()
    for kind in SIZES:
        together.read(kind)
    assert together.rows() == expected
    assert {kind: sum(each.seen) for kind, each in together.extractors.items()} == {
        kind: COUNT - 1 - count for kind, count in kept.items()
    }, "what was stored is not read again"


class Unloadable(Batched):
    def load(self) -> None:
        raise OSError("no\nweights")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Unloadable("captions"), "captions: Unloadable could not be loaded: OSError: no weights"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_another_kind_that_does_not_load_is_left_to_its_own_stage(
    folder: Path, make: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = passes(folder, "together", batched())
    along = {"captions": lambda: Along("captions", make(), made.inputs(), 4), "ocr": lambda: None}
    engine = OnePass(4, 2, along)
    summary = run("objects", Bucketed("objects"), made.inputs(), made.output / "o.jsonl", made.results, engine=engine)
    assert summary.read == COUNT - 1
    lines = capsys.readouterr().err.splitlines()
    assert f"objects: captions is not read along, but left to its own stage: {message}" in lines


def test_a_run_that_is_killed_is_gone_on_with(folder: Path) -> None:
    """By a picture, which is then read with care; nothing that is stored is read again."""
    make_pictures(folder, 20, seed=2)
    Image.new("RGB", (31, 31), (255, 0, 0)).save(folder / "2_0010.png")
    rows = passes(folder, "together", batched())
    store = folder.parent / "together" / "store"
    command = [sys.executable, "-m", "tests.pipeline.engine.together", str(folder), str(rows.output), str(store)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = {kind: stored(rows, kind) for kind in SIZES}
    count = COUNT - 1 + 20
    assert all(0 < found < count for found in kept.values()), kept
    together = passes(folder, "together", batched(captions=Deadly))
    for kind in SIZES:
        together.read(kind)
    expected = apart(folder, batched())
    found = together.rows()
    assert {kind: found[kind] for kind in ("objects", "ocr")} == {kind: expected[kind] for kind in ("objects", "ocr")}
    assert found["captions"].count(b'"status": "failed"') == 1
    assert b"the process that read it ended with SIGKILL" in found["captions"]
    for kind in SIZES:
        assert stored(together, kind) == count - (kind == "captions")
        assert sum(together.extractors[kind].seen) <= count - kept[kind]


@pytest.mark.parametrize("where", ["store", "parts"])
def test_a_part_of_the_shards_is_read_in_one_pass_too(folder: Path, where: str) -> None:
    if where == "parts":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-ray.lock)")

    def results(name: str) -> Results | PartedResults:
        place = folder.parent / name
        return Store.open(place) if where == "store" else Parts(str(place))

    expected = passes(folder, "expected", batched(), results("others"))
    for kind in SIZES:
        expected.read(kind, along=False)
    together = passes(folder, "together", batched(), results("results"))
    for number in range(2):
        outcome = together.read("captions", Part(number, 2))
        assert isinstance(outcome, Outcome)
        assert 0 < outcome.count < COUNT
    twice = {"0_0003.png", "0_0020.png", "0_0040.png"} if where == "parts" else set()
    for name, reads in together.pictures.reads.items():
        assert reads == 1 or name in twice, "a part is whole in itself"
    writing = passes(folder, "together", batched(), results("results"))
    for kind in SIZES:
        writing.read(kind)
    assert writing.rows() == expected.rows()
    assert not writing.pictures.reads


class Labelled(Batched):
    """Says what it is to look for."""

    def extract(self, images: Sequence[Any]) -> list[list[Any]]:
        self.seen.append(len(images))
        return [[ObjectTag(f"{image.labels} {colour(image.picture)}")] for image in images]


def test_pictures_with_labels_are_decoded_once_with_those_without(folder: Path) -> None:
    labels = {f"0_{number:04}.png": (f"thing {number % 3}",) for number in range(0, COUNT, 2)}
    made = passes(folder, "together", {"objects": Labelled("objects"), "ocr": Batched("ocr")})
    inputs = LabelledPictures(made.manifest, made.pictures, ImagesParams(), labels)
    engine = OnePass(4, 2, {"ocr": lambda: Along("ocr", made.extractors["ocr"], made.inputs(), 3)})
    run("objects", made.extractors["objects"], inputs, made.output / "objects.jsonl", made.results, engine=engine)
    made.read("ocr")
    assert b"('thing 2',)" in made.rows()["objects"]
    assert sum(made.extractors["ocr"].seen) == COUNT - 1
    assert set(made.pictures.reads.values()) == {1}
