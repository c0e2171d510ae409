"""The engine: one row a picture whatever happens, nothing read twice, the same output after any interruption."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.files import write_jsonl
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Caption, ImageRow, TextLine
from pipeline.core.store import Store, digest
from pipeline.engine.run import Summary, extract
from pipeline.extractors.base import fingerprint_of
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams
from tests.pipeline.engine.bench import Bench, MeanColour, colour, figures, make_pictures, reddish, rows_of
from tests.project import wait_for

ROOT = Path(__file__).resolve().parents[3]


def test_every_picture_gives_its_row(bench: Bench) -> None:
    (bench.folder / "0_0003.png").write_bytes(b"")
    (bench.folder / "0_0005.png").write_bytes((bench.folder / "0_0004.png").read_bytes())
    (bench.folder / "9.png").symlink_to("/etc/hostname")
    extractor = MeanColour()
    summary = bench.run(extractor)
    assert figures(summary) == (18, 1, 2)
    assert str(summary) == "21 pictures: 18 read, 1 from the store, 2 failed"
    assert sum(extractor.seen) == 18, "two pictures of the same bytes are read once"
    rows = bench.rows()
    assert (rows["0_0003.png"]["status"], rows["0_0003.png"]["captions"]) == ("unreadable", [])
    assert (rows["9.png"]["status"], rows["9.png"]["sha256"]) == ("unsafe_name", None)
    for name in ("0_0000.png", "0_0004.png", "0_0005.png"):
        with Image.open(bench.folder / name) as image:
            assert rows[name]["captions"] == [{"text": f"version 1: {colour(image)}", "score": 0.5}]
    assert list(rows["0_0000.png"]) == ["image", "sha256", "status", "error", "captions"]


def test_the_closing_line_has_thousands() -> None:
    assert str(Summary(10, 1030, 3, 1.0)) == "1,043 pictures: 10 read, 1,030 from the store, 3 failed"
    assert str(Summary(1, 0, 0, 1.0)) == "1 picture: 1 read, 0 from the store, 0 failed"


def test_nothing_is_read_twice(bench: Bench) -> None:
    bench.run(MeanColour())
    first = bench.output.read_bytes()
    again = MeanColour()
    assert figures(bench.run(again)) == (0, 20, 0)
    assert again.seen == []
    assert bench.output.read_bytes() == first
    make_pictures(bench.folder, 10, seed=7)
    assert figures(bench.run(again)) == (10, 20, 0)
    assert figures(bench.run(MeanColour(version=2))) == (30, 0, 0)
    assert figures(bench.run(MeanColour())) == (0, 30, 0), "going back costs nothing"


def test_results_do_not_depend_on_batch_size_workers_or_order(bench: Bench, tmp_path: Path) -> None:
    bench.run(MeanColour())
    expected = bench.output.read_bytes()
    for batch_size, workers in [(1, 1), (3, 4), (16, 2), (100, 1)]:
        with Store.open(tmp_path / f"store {batch_size}") as store:
            rows = rows_of(bench.folder)
            random.Random(batch_size).shuffle(rows)
            extract("captions", MeanColour(), rows, bench.folder, bench.output, store, batch_size, workers)
        assert bench.output.read_bytes() == expected


def test_a_manifest_on_disk_is_streamed(bench: Bench, tmp_path: Path) -> None:
    bench.run(MeanColour())
    expected = bench.output.read_bytes()
    write_jsonl(tmp_path / "images.jsonl", map(asdict, rows_of(bench.folder)))
    extract("captions", MeanColour(), tmp_path / "images.jsonl", bench.folder, bench.output, bench.store)
    assert bench.output.read_bytes() == expected


def test_preparation_runs_in_the_decoding_threads(bench: Bench) -> None:
    class Preparing(MeanColour):
        threads: set[str] = set()  # noqa: RUF012

        def prepare(self, image: Image.Image) -> list[float]:
            self.threads.add(threading.current_thread().name.split("_")[0])
            if reddish(image):
                raise ValueError("cannot be prepared")
            return colour(image)

        def extract_prepared(self, prepared: Sequence[list[float]]) -> list[list[Caption]]:
            return [[Caption(f"version 1: {one}", 0.5)] for one in prepared]

    bench.run(MeanColour())
    expected = bench.output.read_bytes()
    bench.store = Store.open(bench.folder.parent / "other store")
    assert figures(bench.run(Preparing())) == (20, 0, 0)
    assert bench.output.read_bytes() == expected
    assert Preparing.threads == {"decode"}
    Image.new("RGB", (9, 9), (255, 0, 0)).save(bench.folder / "1.png")
    assert figures(bench.run(Preparing())) == (0, 20, 1)
    assert bench.rows()["1.png"]["error"] == "ValueError: cannot be prepared"


def test_a_file_that_changes_between_the_stages_is_not_kept_under_its_old_hash(bench: Bench) -> None:
    rows = rows_of(bench.folder)
    Image.new("RGB", (5, 5)).save(bench.folder / "0_0007.png")
    (bench.folder / "0_0008.png").unlink()
    summary = extract("captions", MeanColour(), rows, bench.folder, bench.output, bench.store)
    assert figures(summary) == (18, 0, 2)
    found = {json.loads(line)["image"]: json.loads(line) for line in bench.output.read_text().splitlines()}
    assert "changed since" in found["0_0007.png"]["error"]
    assert found["0_0008.png"]["status"] == "failed"
    assert bench.store.get_many(digest(fingerprint_of(MeanColour())), [str(rows[7].sha256)]) == {}


def test_a_twin_is_read_where_the_first_copy_is_gone_or_has_changed(bench: Bench) -> None:
    """Pictures of the same bytes have one result, whichever copy it is read off."""
    bench.run(MeanColour())
    bench.store = Store.open(bench.folder.parent / "other store")
    twins = {"0_0003.png": "t3.png", "0_0004.png": "t4.png", "0_0005.png": "t5.png"}
    for first, twin in twins.items():
        (bench.folder / twin).write_bytes((bench.folder / first).read_bytes())
    rows = rows_of(bench.folder)
    (bench.folder / "0_0003.png").unlink()
    Image.new("RGB", (5, 5)).save(bench.folder / "0_0004.png")
    for name in ("0_0005.png", "t5.png"):
        (bench.folder / name).unlink()
    expected = {json.loads(line)["image"]: json.loads(line) for line in bench.output.read_text().splitlines()}
    summary = extract("captions", MeanColour(), rows, bench.folder, bench.output, bench.store)
    assert figures(summary) == (19, 2, 2)
    found = {json.loads(line)["image"]: json.loads(line) for line in bench.output.read_text().splitlines()}
    for first in ("0_0003.png", "0_0004.png"):
        assert found[first] == expected[first]
        assert found[twins[first]]["captions"] == expected[first]["captions"]
    assert {found[name]["status"] for name in ("0_0005.png", "t5.png")} == {"failed"}


class Loading(MeanColour):
    """Counts how its model is loaded."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.loads: list[bool] = []
        self.error = error

    def load(self) -> None:
        self.loads.append(threading.current_thread() is threading.main_thread())
        if self.error is not None:
            raise self.error

    def bucket(self, _width: int, _height: int) -> int:
        assert self.loads
        return 0

    def prepare(self, image: Image.Image) -> Image.Image:
        assert self.loads
        return image

    def extract_prepared(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        return self.extract(images)


def test_the_model_is_loaded_once_and_only_where_there_is_something_to_read(bench: Bench) -> None:
    first = Loading()
    assert figures(bench.run(first)) == (20, 0, 0)
    assert first.loads == [True], "by the thread that runs the engine, before the first picture"
    again = Loading()
    assert figures(bench.run(again)) == (0, 20, 0)
    assert again.loads == [], "every result is in the store"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("no such checkpoint"), "^no such checkpoint$"),
        (RuntimeError("bad\nweights"), "captions: Loading could not be loaded: RuntimeError: bad weights"),
    ],
)
def test_a_model_that_does_not_load_ends_the_run_and_is_nobodys_row(
    bench: Bench, error: Exception, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        bench.run(Loading(error))
    assert not bench.output.exists()


def test_pictures_and_results_may_lie_anywhere(bench: Bench) -> None:
    """The engine asks where pictures lie for bytes by name, and where results go for bytes by key."""

    class InMemory:
        def __init__(self) -> None:
            self.pictures = {path.name: path.read_bytes() for path in bench.folder.iterdir()}
            self.values: dict[tuple[str, str], bytes] = {}

        def read(self, name: str) -> bytes:
            return self.pictures[name]

        def get_many(self, fingerprint: str, keys: Sequence[str]) -> dict[str, bytes]:
            return {key: self.values[fingerprint, key] for key in keys if (fingerprint, key) in self.values}

        def known(self, fingerprint: str, keys: Sequence[str]) -> set[str]:
            return set(self.get_many(fingerprint, keys))

        def put_many(self, fingerprint: str, values: Mapping[str, bytes]) -> None:
            self.values |= {(fingerprint, key): value for key, value in values.items()}

    bench.run(MeanColour())
    expected, memory, rows = bench.output.read_bytes(), InMemory(), rows_of(bench.folder)
    for path in bench.folder.iterdir():
        path.unlink()
    assert figures(extract("captions", MeanColour(), rows, memory, bench.output, memory)) == (20, 0, 0)
    assert bench.output.read_bytes() == expected
    assert figures(extract("captions", MeanColour(), rows, None, bench.output, memory)) == (0, 20, 0)


class Published:
    """Reads other people's results."""

    def lookup(self, image_name: str) -> list[TextLine] | None:
        return [TextLine(f"text of {image_name}")] if image_name < "0_0010" else None


def test_looked_up_results_bypass_pictures_and_store(bench: Bench) -> None:
    rows = [
        ImageRow("0_0001.png", status="missing", error="gone"),
        ImageRow("0_0002.png", "ab" * 32, 8, 8, "PNG"),
        ImageRow("0_0011.png", status="missing", error="gone"),
        ImageRow("0_0012.png", "cd" * 32, 8, 8, "PNG"),
    ]
    summary = extract("ocr", Published(), rows, None, bench.output, bench.store)
    assert figures(summary) == (2, 0, 2)
    found = [json.loads(line) for line in bench.output.read_text().splitlines()]
    assert [(row["status"], row["error"]) for row in found] == [
        ("ok", None),
        ("ok", None),
        ("missing", "gone"),
        ("missing", "the extractor has no entry for this picture"),
    ]
    assert found[0]["ocr"] == [{"text": "text of 0_0001.png", "score": None, "polygon": None}]
    assert not list((bench.store.folder / "results").glob("*.sqlite3"))


def test_a_malformed_manifest_is_named(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "images.jsonl"
    good = {
        "image": "b",
        "sha256": None,
        "width": None,
        "height": None,
        "format": None,
        "status": "missing",
        "error": "x",
    }
    for bad, message in [
        ({"image": "c"}, "not a row of the image manifest"),
        ({**good, "image": "a"}, "sorted"),
        ({**good, "image": "b"}, "sorted"),
        ({**good, "image": "c", "status": "ok"}, "not a row"),
    ]:
        path.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(UserError, match=rf"images\.jsonl:2: .*{message}"):
            extract("captions", MeanColour(), path, bench.folder, bench.output, bench.store)
    assert not bench.output.exists()


def test_no_pictures_at_all(bench: Bench) -> None:
    assert figures(extract("captions", MeanColour(), [], None, bench.output, bench.store)) == (0, 0, 0)
    assert bench.output.read_bytes() == b"\n", "as DVC warns of files that hold nothing"
    assert list(TEXT_KINDS["captions"].read(bench.output)) == []
    rows = manifest(["a.jpg", "b.jpg"], None, ImagesParams())
    assert figures(extract("captions", MeanColour(), rows, None, bench.output, bench.store)) == (0, 0, 2)


def test_an_output_that_cannot_be_written_is_an_error(bench: Bench) -> None:
    bench.output = bench.folder / "0_0000.png" / "captions.jsonl"
    with pytest.raises(UserError, match="cannot be written"):
        extract("captions", MeanColour(), rows_of(bench.folder), bench.folder, bench.output, bench.store)


RUN = """
import sys
from pathlib import Path
from pipeline.engine.run import extract
from pipeline.images.manifest import ImagesParams, manifest
from pipeline.images.listing import list_pictures
from pipeline.core.store import Store
from tests.pipeline.engine.bench import MeanColour
folder, output, store, seconds = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
rows = list(manifest(list_pictures(folder), folder, ImagesParams()))
print("ready", flush=True)
print(extract("captions", MeanColour(seconds=seconds), rows, folder, output, Store.open(store), batch_size=4))
"""


def start(bench: Bench, output: Path, seconds: float) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(bench.folder), str(output), str(bench.store.folder), str(seconds)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def kept(bench: Bench) -> int:
    """How many of the bench's pictures have a result in the store."""
    key = digest(fingerprint_of(MeanColour()))
    return len(bench.store.get_many(key, [str(row.sha256) for row in rows_of(bench.folder)]))


@pytest.fixture
def undisturbed(tmp_path: Path) -> bytes:
    bench = Bench(tmp_path / "undisturbed", 80)
    bench.run(MeanColour())
    return bench.output.read_bytes()


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path, undisturbed: bytes) -> None:
    bench = Bench(tmp_path, 80)
    before = 0
    for wanted in (8, 32):
        process = start(bench, bench.output, 0.2)
        wait_for(lambda wanted=wanted: kept(bench) >= wanted)
        process.kill()
        process.communicate()
        assert not bench.output.exists()
        assert before < kept(bench) < 80
        assert kept(bench) % 4 == 0, "whole batches are kept"
        before = kept(bench)
    assert figures(bench.run(MeanColour())) == (80 - before, before, 0)
    assert bench.output.read_bytes() == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_is_finished_and_leaves_no_trace(tmp_path: Path, number: int, undisturbed: bytes) -> None:
    bench = Bench(tmp_path, 80)
    process = start(bench, bench.output, 0.05)
    wait_for(lambda: kept(bench) > 0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT), errors
    assert 0 < kept(bench) < 80
    assert list(bench.output.parent.iterdir()) == []
    bench.run(MeanColour())
    assert bench.output.read_bytes() == undisturbed


def test_two_runs_at_once_on_one_store(tmp_path: Path, undisturbed: bytes) -> None:
    bench = Bench(tmp_path, 80)
    processes = [start(bench, tmp_path / f"out{index}.jsonl", 0.01) for index in range(2)]
    for index, process in enumerate(processes):
        told = process.communicate(timeout=60)[1]
        assert process.returncode == 0, told
        assert "Traceback" not in told
        assert "error" not in told
        assert (tmp_path / f"out{index}.jsonl").read_bytes() == undisturbed


def test_a_full_store_is_passed_through_quickly(tmp_path: Path) -> None:
    """The figure to reach is 20,000 pictures a second; a tenth of it still tells a pass from a search."""
    count = 20_000
    rows = [ImageRow(f"{number:06}.jpg", f"{number:064x}", 100, 100, "JPEG") for number in range(count)]
    with Store.open(tmp_path / "store") as store:
        store.put_many(
            digest(fingerprint_of(MeanColour())),
            {str(row.sha256): b'[{"text": "a dog on a beach", "score": 0.5}]' for row in rows},
        )
        summary = extract("captions", MeanColour(), rows, tmp_path, tmp_path / "out.jsonl", store)
    assert figures(summary) == (0, count, 0)
    assert count / summary.seconds > 2_000
    assert os.path.getsize(tmp_path / "out.jsonl") > 100 * count
