"""Shards: cut where names say so, read one by one to the same bytes, shared out among processes, kept as parts."""

import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.records import Post
from pipeline.engine import shards
from pipeline.engine.inputs import Inputs, LabelledPictures, PictureInputs, PostInputs
from pipeline.engine.run import extract, run_part
from pipeline.engine.shards import Part, cut
from pipeline.extractors.base import Wants
from pipeline.images.pictures import Folder
from pipeline.settings.params import ImagesParams
from tests.conftest import ROOT
from tests.pipeline.engine.bench import Bench, MeanColour, figures, make_pictures, rows_of
from tests.project import wait_for


def named(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return sorted(f"{rng.getrandbits(60):015x}.jpg" for _ in range(count))


def cuts(names: list[str]) -> set[tuple[str, ...]]:
    return {tuple(row["image"] for row in shard.rows) for shard in cut({"image": name} for name in names)}


def test_shards_are_of_some_2000_rows_and_hold_them_all_in_order() -> None:
    names = named(60_000, 1)
    found = list(cut({"image": name} for name in names))
    assert [row["image"] for shard in found for row in shard.rows] == names
    assert all(shards.LEAST <= len(shard.rows) <= shards.MOST for shard in found[:-1])
    assert 1500 < len(names) / len(found) < 3000
    assert len({shard.name for shard in found}) == len(found)
    assert list(cut([])) == []


def test_ten_new_names_change_the_shards_that_they_fall_into_alone() -> None:
    names, more = named(60_000, 1), named(10, 2)
    assert len(cuts(names) - cuts(sorted([*names, *more]))) <= 15
    gone = random.Random(3).sample(names, 10)
    assert len(cuts(names) - cuts(sorted(set(names) - set(gone)))) <= 15


def test_posts_are_cut_by_id_and_split() -> None:
    rows = [{"id": f"{number:06}", "split": split} for number in range(4000) for split in (None, "dev")]
    found = list(cut(rows))
    assert len(found) > 1
    assert [row for shard in found for row in shard.rows] == rows


class Batches(MeanColour):
    """Writes down the sizes that it is shown, batch by batch."""

    def __init__(self, version: int = 1) -> None:
        super().__init__(version)
        self.shown: list[list[tuple[int, int]]] = []

    def extract(self, images: Any) -> Any:
        self.shown.append([image.size for image in images])
        return super().extract(images)


def test_batches_end_where_shards_do(tmp_path: Path, small_shards: None) -> None:
    bench = Bench(tmp_path, 60)
    rows = rows_of(bench.folder)
    extractor = Batches()
    bench.run(extractor)
    expected = [
        [(row["width"], row["height"]) for row in shard.rows[start : start + 4]]
        for shard in cut({"image": row.image, "width": row.width, "height": row.height} for row in rows)
        for start in range(0, len(shard.rows), 4)
    ]
    assert len(expected) > 15
    assert extractor.shown == expected


def test_pictures_in_two_shards_are_read_once(tmp_path: Path, small_shards: None) -> None:
    bench = Bench(tmp_path, 40)
    (bench.folder / "9.png").write_bytes((bench.folder / "0_0001.png").read_bytes())
    assert figures(bench.run(MeanColour())) == (40, 1, 0)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (requirements-ray.lock)")
    return Parts(str(tmp_path / "parts"), tmp_path / "store")


def run(bench: Bench, results: Any, extractor: Any) -> tuple[int, int, int]:
    return figures(extract("captions", extractor, rows_of(bench.folder), bench.folder, bench.output, results, 4))


def files(parts: Parts) -> dict[str, bytes]:
    return {str(path.relative_to(parts.url)): path.read_bytes() for path in Path(parts.url).rglob("*.parquet")}


def test_parts_give_the_bytes_of_the_store_and_only_what_is_missing_is_read(
    tmp_path: Path, small_shards: None, parts: Parts
) -> None:
    bench = Bench(tmp_path, 60)
    bench.run(MeanColour())
    expected = bench.output.read_bytes()
    assert run(bench, parts, MeanColour()) == (60, 0, 0)
    assert bench.output.read_bytes() == expected
    first = files(parts)
    assert len(first) == len(list(cut({"image": row.image} for row in rows_of(bench.folder))))
    assert run(bench, Parts(parts.url), again := MeanColour()) == (0, 60, 0)
    assert again.seen == []
    names = make_pictures(bench.folder, 3, seed=7)
    assert run(bench, Parts(parts.url), MeanColour()) == (3, 60, 0), "of a shard, only what is new"
    assert files(parts).items() >= first.items(), "no part is changed"
    assert run(bench, Parts(parts.url), MeanColour(version=2)) == (63, 0, 0)
    assert run(bench, Parts(parts.url), MeanColour()) == (0, 63, 0), "going back costs nothing"
    for name in names:
        (bench.folder / name).unlink()
    assert run(bench, Parts(parts.url), MeanColour()) == (0, 60, 0), "nor does an older manifest"
    assert bench.output.read_bytes() == expected


def test_a_failure_is_no_part_and_is_tried_again(tmp_path: Path, small_shards: None, parts: Parts) -> None:
    bench = Bench(tmp_path, 20)

    class Failing(MeanColour):
        def extract(self, images: Any) -> Any:
            if any(image.size == size for image in images):
                raise ValueError("cannot")
            return super().extract(images)

    size = next((row.width, row.height) for row in rows_of(bench.folder))
    count = sum((row.width, row.height) == size for row in rows_of(bench.folder))
    assert run(bench, parts, Failing()) == (20 - count, 0, count)
    assert run(bench, Parts(parts.url), MeanColour()) == (count, 20 - count, 0)


@pytest.mark.parametrize("kept", ["store", "parts"])
def test_processes_share_out_shards_and_the_stage_finds_all_read(
    tmp_path: Path, small_shards: None, parts: Parts, kept: str
) -> None:
    bench = Bench(tmp_path, 60)
    bench.run(MeanColour())
    expected = bench.output.read_bytes()
    bench.store = type(bench.store).open(tmp_path / "other store")
    results = bench.store if kept == "store" else parts
    inputs = PictureInputs(rows_of(bench.folder), Folder(bench.folder, ImagesParams()), ImagesParams())
    read = []
    for number in range(3):
        where = results if kept == "store" else Parts(parts.url)
        read.append(run_part("captions", MeanColour(), inputs, where, Part(number, 3), 4).count)
    assert sum(read) == 60
    assert min(read) > 5
    parts.refresh()
    assert run(bench, results, extractor := MeanColour()) == (0, 60, 0)
    assert extractor.seen == []
    assert bench.output.read_bytes() == expected


def test_a_damaged_part_is_named_and_deleting_it_costs_its_pictures(tmp_path: Path, parts: Parts) -> None:
    bench = Bench(tmp_path, 10)
    run(bench, parts, MeanColour())
    [part] = Path(parts.url).rglob("*.parquet")
    sound = part.read_bytes()
    make_pictures(bench.folder, 1, seed=7)
    for damaged in (sound[:100], sound[:200] + bytes([sound[200] ^ 1]) + sound[201:], b""):
        part.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{part.name}: this part is damaged .*delete it"):
            run(bench, Parts(parts.url), MeanColour())
    part.unlink()
    assert run(bench, Parts(parts.url), MeanColour()) == (11, 0, 0)


def test_a_part_of_another_layout_or_extractor_is_left_alone(tmp_path: Path, parts: Parts) -> None:
    key = "ab" * 32
    one = parts.part(key, "first")
    one.put_many(key, {"cd" * 32: b"[]"})
    one.save()
    folder = Path(parts.url)
    (folder / key[:32]).rename(folder / ("ef" * 16))
    with pytest.raises(UserError, match="a part of layout and extractor"):
        Parts(parts.url).part("ef" * 32, "first").get_many("ef" * 32, ["cd" * 32])


def test_large_values_are_read_group_by_group(parts: Parts) -> None:
    key = "ab" * 32
    values = {f"{number:064x}": bytes([number]) * 1_000_000 for number in range(70)}
    one = parts.part(key, "first")
    one.put_many(key, values)
    one.save()
    other = Parts(parts.url).part(key, "first")
    assert other.known(key, [*values, "f" * 64]) == set(values)
    for number in range(0, 70, 21):
        wanted = list(values)[number : number + 21]
        assert other.get_many(key, [*wanted, "f" * 64]) == {each: values[each] for each in wanted}


RUN = """
import sys
from pathlib import Path
from pipeline.core.parts import Parts
from pipeline.engine import shards
from pipeline.engine.run import extract
from tests.pipeline.engine.bench import MeanColour, rows_of
shards.MEAN, shards.LEAST, shards.MOST = 8, 2, 20
folder, output, url = map(Path, sys.argv[1:])
print(extract("captions", MeanColour(seconds=0.05), rows_of(folder), folder, output, Parts(str(url)), batch_size=4))
"""


def test_a_killed_run_loses_the_shard_in_hand_and_leaves_no_file_in_part(
    tmp_path: Path, small_shards: None, parts: Parts
) -> None:
    bench = Bench(tmp_path, 60)
    bench.run(MeanColour())
    expected = bench.output.read_bytes()
    bench.output.unlink()
    command = [sys.executable, "-c", RUN, str(bench.folder), str(bench.output), parts.url]
    for wanted in (1, 4):
        process = subprocess.Popen(command, cwd=ROOT)
        wait_for(lambda wanted=wanted: len(files(parts)) >= wanted)
        process.kill()
        process.wait()
    whole = len(files(parts))
    read, known, failed = run(bench, Parts(parts.url), MeanColour())
    assert read < 60 - 2 * whole
    assert (read + known, failed) == (60, 0)
    assert bench.output.read_bytes() == expected
    assert not list(Path(parts.url).rglob("*.tmp"))


def test_without_pyarrow_there_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pyarrow is not installed; run: pip install .*requirements-ray\.lock"):
        Parts(str(tmp_path))


def test_a_place_that_cannot_be_listed_or_written_is_an_error(tmp_path: Path, parts: Parts) -> None:
    (tmp_path / "file").write_text("")
    blocked = Parts(str(tmp_path / "file"))
    bench = Bench(tmp_path, 2)
    with pytest.raises(UserError, match="file"):
        run(bench, blocked, MeanColour())


def test_what_jobs_show_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3)
    (bench.folder / "9.png").write_bytes((bench.folder / "0_0001.png").read_bytes())
    rows, limits = rows_of(bench.folder), ImagesParams()
    place = Folder(bench.folder, limits)
    posts = [(None, Post("1", ["see", "Rome"], None, [rows[0].image, rows[1].image]))]
    every: list[Inputs] = [
        PictureInputs(rows, place, limits),
        LabelledPictures(rows, place, limits, {rows[0].image: ("a dog",)}),
        PostInputs(posts, Wants(pictures=2), [{}], rows, place, limits),
    ]
    for inputs in every:
        jobs = [inputs.job(row) for row in inputs.rows()]
        sent = pickle.loads(pickle.dumps(inputs.of(jobs)))  # noqa: S301  (our own)
        sent.require()
        assert type(sent.load(jobs[0])) is type(inputs.of(jobs).load(jobs[0]))
    (bench.folder / "0_0001.png").unlink()
    first = every[0]
    jobs = [first.job(row) for row in first.rows()]
    copy = pickle.loads(pickle.dumps(first.of(jobs[:2])))  # noqa: S301  (our own)
    assert copy.load(jobs[1]).size == (rows[1].width, rows[1].height), "from the copy, which no job names"
