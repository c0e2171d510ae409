"""The stages that go through all posts take as much memory for many posts as for few; what SQLite takes is bounded."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.contexts.found import FoundWords
from pipeline.core import records
from pipeline.core.records import Post
from pipeline.core.scratch import Sorted
from pipeline.core.store import Store, digest
from pipeline.corpus.dataset import each_of_split
from pipeline.corpus.report import Report
from pipeline.engine import shards
from pipeline.engine.inputs import PictureInputs
from pipeline.engine.run import extract
from pipeline.extractors.base import fingerprint_of
from pipeline.images.manifest import manifest
from pipeline.settings.params import DataParams, ImagesParams
from stages.views import make_views
from tests.pipeline.contexts.test_template import views
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
        posts = report.counted("train", each_of_split(data, "train"))
        assert records.write_lines(tmp_path / "out", Sorted((post.id, records.line(post)) for post in posts)) == count
        assert report.found({})["splits"]["train"]["posts"] == count

    assert_flat(work)


def test_images(tmp_path: Path) -> None:
    def work(count: int) -> None:
        names = (f"{number * 7919 % 99_991}.jpg" for number in range(count))
        rows = manifest(names, None, ImagesParams())
        assert records.write(tmp_path / "images.jsonl", rows) == count

    assert_flat(work)


def test_views(tmp_path: Path) -> None:
    def work(count: int) -> None:
        with (tmp_path / "captions.jsonl").open("w", encoding="utf-8") as file:
            for number in range(count):
                row = {"image": f"{number:09}.jpg", "sha256": None, "status": "ok", "error": None}
                file.write(
                    json.dumps({**row, "captions": [{"text": f"a dog on beach {number}", "score": None}]}) + "\n"
                )
        found = FoundWords(tmp_path, views(("captions",)))
        posts = (Post(f"{number}", ["x"], None, [f"{number:09}.jpg"]) for number in range(count))
        made = make_views(posts, "train", found)
        assert all(view.context.endswith(f"beach {view.id}") for view in made)

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
