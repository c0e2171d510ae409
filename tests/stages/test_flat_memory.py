"""The stages that go through all posts take as much memory for many posts as for few; what SQLite takes is bounded."""

import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.contexts.found import FoundWords
from pipeline.core import files, records
from pipeline.core.records import Post
from pipeline.core.scratch import Sorted
from pipeline.core.store import Store, digest
from pipeline.corpus.dataset import settled
from pipeline.corpus.report import Report
from pipeline.engine import shards
from pipeline.engine.inputs import PictureInputs
from pipeline.engine.posts import posts
from pipeline.engine.run import extract
from pipeline.engine.views import views
from pipeline.extractors.base import fingerprint_of
from pipeline.images.manifest import manifest
from pipeline.settings.params import DataParams, ImagesParams
from tests.pipeline.contexts.test_template import views as template
from tests.pipeline.engine.bench import MeanColour

FEW, MANY = 1_000, 6_000


@contextmanager
def traced(peaks: list[int]) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def assert_flat(work: Callable[[int], None]) -> None:
    """Memory for many is to be that for few, but for what pydantic keeps of short texts, of at most 16,384 of them."""
    peaks: list[int] = []
    work(100)
    for count in (FEW, MANY):
        with traced(peaks):
            work(count)
    assert peaks[1] < 1.2 * peaks[0] + 700_000, peaks


def test_posts(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    data = DataParams(root=tmp_path, train=["train.txt"])

    def work(count: int) -> None:
        with path.open("w", encoding="utf-8") as file:
            for number in range(count):
                file.write(f"IMGID:{number * 7919 % 99_991}\nRome\tB-LOC\nn{number % 500}\tO\n\n")
        report = Report()
        given = posts(data, "train", Counter(), report.counts("train"), None)
        lines = Sorted((post.id, post.line) for post in report.noted("train", settled(given, "train", Counter())))
        assert records.write_lines(tmp_path / "out", lines) == count
        assert report.found({})["splits"]["train"]["posts"] == count

    assert_flat(work)


def test_images(tmp_path: Path) -> None:
    def work(count: int) -> None:
        names = (f"{number * 7919 % 99_991}.jpg" for number in range(count))
        rows = manifest(names, None, ImagesParams())
        assert records.write(tmp_path / "images.jsonl", rows) == count

    assert_flat(work)


def test_views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PIECE_BYTES", 20_000)  # of which few posts make more than one

    def work(count: int) -> None:
        with (tmp_path / "captions.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                row = {"image": f"{number:09}.jpg", "sha256": None, "status": "ok", "error": None}
                file.write(
                    json.dumps({**row, "captions": [{"text": f"a dog on beach {number}", "score": None}]}) + "\n"
                )
        names = (Post(f"{number}", ["x"], None, [f"{number:09}.jpg"]) for number in range(count))
        records.write(tmp_path / "train.jsonl", names)
        made = views(tmp_path / "train.jsonl", "train", FoundWords(tmp_path, template(("captions",))), None)
        for view in (json.loads(line) for shard in made for line in shard.lines):
            assert view["context"].endswith(f"beach {view['id']}")

    assert_flat(work)


def test_a_run_over_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("MEAN", 300), ("LEAST", 200), ("MOST", 400)):
        monkeypatch.setattr(shards, name, size)

    def work(count: int) -> None:
        rows = tmp_path / f"{count}.jsonl"
        with rows.open("w", encoding="utf-8") as file:
            for number in range(count):
                row = {"image": f"{number:09}.jpg", "sha256": f"{number // 2:064x}", "width": 6, "height": 4}
                file.write(json.dumps({**row, "format": "PNG", "status": "ok", "error": None}) + "\n")
        with Store.open(tmp_path / "store") as store:
            inputs, extractor = PictureInputs(rows, None, ImagesParams()), MeanColour()
            key = digest(fingerprint_of(extractor))
            for shard in shards.cut(inputs.rows()):
                store.put_many(key, {row["sha256"]: b"[]" for row in shard.rows})
            assert inputs.repeated().first(f"{number:064x}" for number in range(9)).keys()
            summary = extract("captions", extractor, rows, None, tmp_path / "captions.jsonl", store)
            assert (summary.read, summary.from_store) == (0, count)

    assert_flat(work)
