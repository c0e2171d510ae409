"""Pictures with labels of their own through the engine: by the digest of both, a row for each picture."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.records import ObjectTag
from pipeline.core.store import Store
from pipeline.engine.inputs import LabelledPictures
from pipeline.engine.run import Summary, run
from pipeline.extractors.base import LabelledPicture
from pipeline.images.pictures import Folder
from pipeline.settings.params import ImagesParams
from tests.pipeline.engine.bench import colour, figures, make_pictures, rows_of

LIMITS = ImagesParams()


class Finds:
    """Finds all that it is to look for, and says where by the picture's mean colour."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "finds", "version": 1}

    def extract(self, shown: Sequence[LabelledPicture]) -> list[list[ObjectTag]]:
        self.seen += [each.labels for each in shown]
        return [[ObjectTag(f"{label} {colour(each.picture)[0]}") for label in each.labels] for each in shown]


class Bench:
    def __init__(self, place: Path) -> None:
        self.store, self.output, self.folder = Store.open(place / "store"), place / "out.jsonl", place / "images"
        self.names = make_pictures(self.folder, 3)

    def run(self, extractor: Any, labels: Mapping[str, tuple[str, ...]], names: Sequence[str] = ()) -> Summary:
        rows = rows_of(self.folder, names or self.names)
        inputs = LabelledPictures(rows, Folder(self.folder, LIMITS), LIMITS, labels)
        return run("objects", extractor, inputs, self.output, self.store, batch_size=2)

    def labels(self) -> dict[str, list[str]]:
        rows = [json.loads(line) for line in self.output.read_text(encoding="utf-8").splitlines()]
        assert all(row["status"] == "ok" and len(row["sha256"]) == 64 for row in rows)
        return {row["image"]: [tag["label"].rpartition(" ")[0] for tag in row["objects"]] for row in rows}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_picture_is_read_again_when_its_labels_change_and_not_when_they_come_back(bench: Bench) -> None:
    one, two, three = bench.names
    before = {one: ("dog",), two: ("dog", "red ball")}
    assert figures(bench.run(Finds(), before)) == (3, 0, 0)
    assert bench.labels() == {one: ["dog"], two: ["dog", "red ball"], three: []}
    finds = Finds()
    assert figures(bench.run(finds, {**before, one: ("cat",)})) == (1, 2, 0)
    assert finds.seen == [("cat",)]
    assert figures(bench.run(finds, {**before, two: ("red ball", "dog")})) == (1, 2, 0)
    assert figures(bench.run(Finds(), before)) == (0, 3, 0)
    assert bench.labels() == {one: ["dog"], two: ["dog", "red ball"], three: []}


def test_copies_of_a_picture_are_read_once_for_each_set_of_labels(bench: Bench) -> None:
    one = bench.names[0]
    names = [one, "copy.png", "twin.png"]
    for name in names[1:]:
        (bench.folder / name).write_bytes((bench.folder / one).read_bytes())
    finds = Finds()
    assert figures(bench.run(finds, {one: ("dog",), "copy.png": ("cat",), "twin.png": ("dog",)}, names)) == (2, 1, 0)
    assert sorted(finds.seen) == [("cat",), ("dog",)]
    assert bench.labels() == {"copy.png": ["cat"], "twin.png": ["dog"], one: ["dog"]}


def test_a_copy_stands_for_a_picture_that_is_gone(bench: Bench) -> None:
    one, two, _ = bench.names
    (bench.folder / two).write_bytes((bench.folder / one).read_bytes())
    rows = rows_of(bench.folder, bench.names)
    (bench.folder / one).unlink()
    inputs = LabelledPictures(rows, Folder(bench.folder, LIMITS), LIMITS, {one: ("dog",), two: ("cat",)})
    finds: Any = Finds()
    assert figures(run("objects", finds, inputs, bench.output, bench.store)) == (3, 0, 0)
    assert bench.labels()[one] == ["dog"]
