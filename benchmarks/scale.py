"""What sharding, parts and a cluster cost: ``python -m benchmarks.scale [PARTS…]``.

- `shards`: memory of the driver, and processor time a row, at 1,000 rows and more, all of them stored.
- `stages`: memory of the stages posts, images and views, and their processor time a post, at 10,000 posts and more.
- `spread`: what of posts and views stays with the driver where workers of a cluster read, and how long they take with
  one and two. Needs ray.
- `finished`: a run that finds 10,000 shards finished, as parts.
- `ray`: the same pictures read by the local engine and by one and two workers of a cluster of this machine: processor
  time a picture, and time in the shards. Needs ray.
- `tasks`: 10,000 tasks of nothing on such a cluster. Needs ray.
- `repro`: a second `dvc repro` with 100,000 pictures in a listing, and in a folder that DVC watches.

Ratios are of one run on one machine; where it has other work, its clocks say little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import Ratio, machine, report
from benchmarks.scale_repro import compare_repro
from benchmarks.scale_stages import compare_spread, compare_stages
from pipeline.core.errors import run_cli
from pipeline.core.parts import Parts
from pipeline.core.records import Caption
from pipeline.core.store import Store, digest
from pipeline.engine import shards
from pipeline.engine.inputs import PictureInputs
from pipeline.engine.plan import lacking
from pipeline.engine.run import extract
from pipeline.images.listing import list_pictures
from pipeline.images.manifest import manifest
from pipeline.settings.params import EXECUTION, ImagesParams

ROOT = Path(__file__).resolve().parent.parent
LIMITS = ImagesParams()
PARTS = ("shards", "stages", "spread", "finished", "ray", "tasks", "repro")
VALUE = b'[{"text": "a dog on a beach with a red ball and two people behind it", "score": 0.5}]'


class Busy:
    """An extractor that keeps a core busy with each picture, for so many seconds of its time; it says what it saw."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "busy", "version": 1, "seconds": self.seconds}

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        found = []
        for image in images:
            end = time.thread_time() + self.seconds
            pixels = np.asarray(image, np.float32)
            while time.thread_time() < end:
                pixels = pixels * 0.5 + 1.0
            found.append([Caption(f"{image.size}", 0.5)])
        return found


def write_rows(path: Path, count: int) -> Path:
    """A manifest of `count` pictures that are nowhere, one in twenty a copy of another."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            own = number - 7 if number % 20 == 19 else number
            sha256 = f"{own * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4
            row = {"image": f"{number:09}.jpg", "sha256": sha256, "width": 640, "height": 480, "format": "JPEG"}
            file.write(json.dumps({**row, "status": "ok", "error": None}) + "\n")
    return path


_FILL = """
import sys
from itertools import islice
from pathlib import Path
from pipeline.core.parts import Parts
from pipeline.core.results import of_shard, save
from pipeline.core.store import Store, digest
from pipeline.engine import shards
from pipeline.engine.inputs import PictureInputs
from pipeline.settings.params import ImagesParams

rows, place, value, key = Path(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), digest({"extractor": "none"})
inputs = PictureInputs(rows, None, ImagesParams())
results = Parts(place) if sys.argv[4] == "parts" else Store.open(place)
for shard in islice(shards.cut(inputs.rows()), 1, None):
    values = of_shard(results, key, shard.name)
    values.put_many(key, {row["sha256"]: value for row in shard.rows})
    save(values)
"""
_DRIVER = """
import sys, time
from pathlib import Path
from pipeline.core.kinds import KINDS
from pipeline.core.parts import Parts
from pipeline.core.results import save
from pipeline.core.store import Store, digest
from pipeline.engine.inputs import PictureInputs
from pipeline.engine.plan import lacking
from pipeline.engine.run import run
from pipeline.settings.params import ImagesParams

class Unused:
    def fingerprint(self):
        return {"extractor": "none"}
    def extract(self, images):
        raise AssertionError

rows, place, value, key = Path(sys.argv[1]), sys.argv[2], sys.argv[3].encode(), digest({"extractor": "none"})
inputs = PictureInputs(rows, None, ImagesParams())
parted = sys.argv[4] == "parts"
results = Parts(place) if parted else Store.open(place)
started = time.process_time()
[shard] = lacking(inputs, results, key, repeated=None if parted else inputs.repeated())
inputs.of(shard.jobs)
shard.results.put_many(key, {job.key: value for job in shard.jobs})
save(shard.results)
del shard
run("captions", Unused(), inputs, Path(place + ".jsonl"), results)
seconds = time.process_time() - started
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) / 1000, seconds)
"""
# What an engine goes through on the driver's side: which digests occur twice, which shards lack results, what their
# jobs show, and the rows; without torch, which a stage that reads nothing does not load.


def stored_pass(count: int, folder: Path, results: str) -> tuple[float, float]:
    """A run over `count` rows of which all but one shard have results, in a process of its own.

    Args:
        count: how many.
        folder: for the manifest and the results.
        results: where those are: the store, or parts.

    Returns:
        MB at the peak, and microseconds of a core a row.
    """
    rows = folder / f"{count}.jsonl"
    if not rows.exists():
        write_rows(rows, count)
    place = str(folder / f"{results} {count}")
    for program in (_FILL, _DRIVER):
        command = [sys.executable, "-c", program, str(rows), place, VALUE.decode(), results]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    megabytes, seconds = map(float, done.stdout.split())
    return megabytes, seconds / count * 1e6


def compare_shards(counts: Sequence[int], folder: Path) -> Iterator[Ratio]:
    """The driver's memory and what a row costs it, neither of which is to grow with the number of rows."""
    for results in ("store", "parts") if find_spec("pyarrow") else ("store",):
        memory, cost = {}, {}
        for count in counts:
            memory[count], cost[count] = stored_pass(count, folder, results)
            print(f"{results}, {count:,} rows: {memory[count]:.1f} MB, {cost[count]:.1f} µs of a core a row")
        few, middle, many = counts[0], counts[-2], counts[-1]
        growth, dearer = memory[many] / memory[middle], cost[many] / cost[few]
        yield Ratio(f"{results}: memory at {many:,} rows to that at {middle:,}", growth, 1.15, ceiling=True)
        yield Ratio(f"{results}: a row's cost at {many:,} rows to that at {few:,}", dearer, 1.15, ceiling=True)


def compare_finished(count: int, folder: Path) -> Iterator[Ratio]:
    """A run that finds all its shards as parts, of one row each, to the 30 s that it may take."""
    shards.MEAN, shards.LEAST, shards.MOST = 1, 1, 1
    rows = write_rows(folder / "finished.jsonl", count)
    inputs, key = PictureInputs(rows, None, LIMITS), digest(Busy().fingerprint())
    parts = Parts(str(folder / "parts"))
    found = 0
    for shard in shards.cut(inputs.rows()):
        part = parts.part(key, shard.name)
        part.put_many(key, {row["sha256"]: VALUE for row in shard.rows})
        part.save()
        found += 1
    started = time.monotonic()
    assert next(lacking(inputs, Parts(parts.url), key), None) is None
    seconds = time.monotonic() - started
    print(f"{found:,} finished shards are passed over in {seconds:.1f} s")
    yield Ratio(f"finished: {found:,} shards, in units of 30 s", seconds / 30, 1.0, ceiling=True)


def worker_times(log: Path) -> list[tuple[float, float, float]]:
    """Begin and end on the clock, and processor time, of each batch that workers read."""
    return [tuple(map(float, line.split())) for line in log.read_text(encoding="ascii").splitlines()]  # type: ignore[misc]


class Noted(Busy):
    """Writes down when each batch began and ended, and what its process has taken of the processor since the last."""

    def __init__(self, log: str, seconds: float = 0.05) -> None:
        super().__init__(seconds)
        self.log, self.taken = log, time.process_time()

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        begun = time.time()
        found = super().extract(images)
        now = time.process_time()
        with open(self.log, "a", encoding="ascii") as file:
            file.write(f"{begun} {time.time()} {(now - self.taken) / len(images)}\n")
        self.taken = now
        return found


def compare_ray(count: int, seconds: float, folder: Path) -> Iterator[Ratio]:
    """Workers against the local engine: processor time a picture, and how many times as fast two are as one."""
    from pipeline.engine.ray import RayEngine

    shards.MEAN, shards.LEAST, shards.MOST = 24, 16, 40
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 255, (160, 240, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number:05}.jpg", quality=90)
    rows = list(manifest(list_pictures(pictures), pictures, LIMITS))
    name = "benchmarks.scale:Noted"  # not __main__, which is another module to a worker
    rates: dict[str, float] = {}
    used: dict[str, float] = {}
    expected = b""
    for label, cores in (("local", 0), ("1 worker", 1), ("2 workers", 2)):
        log, output = folder / f"{label}.log", folder / f"{label}.jsonl"
        options = {"log": str(log), "seconds": seconds}
        section = {"extractor": name, name: options}
        engine = None
        if cores:
            os.environ["SIGHTREAD_CORES"] = str(cores)
            batches = dict.fromkeys(("objects", "captions", "ocr", "features", "knowledge"), 8)
            engine = RayEngine(section, EXECUTION.model_validate({"engine": "ray", "batch_size": batches}))
        extract(
            *("captions", Noted(str(log), seconds), rows, pictures, output, Store.open(folder / label), 8),
            engine=engine,
        )
        found = worker_times(log)
        first, last = min(one[0] for one in found), max(one[1] for one in found)
        rates[label] = count / (last - first)
        used[label] = float(np.median([one[2] for one in found]))
        assert not expected or output.read_bytes() == expected
        expected = output.read_bytes()
        print(f"{label}: {rates[label]:.1f} pictures/s in the shards, {used[label] * 1000:.2f} ms of a core a picture")
    yield Ratio(
        "ray: processor time a picture, to the local engine's", used["1 worker"] / used["local"], 1.10, ceiling=True
    )
    yield Ratio("ray: two workers' speed in the shards to one's", rates["2 workers"] / rates["1 worker"], 1.6)


def compare_tasks(count: int) -> Iterator[Ratio]:
    """Tasks of nothing on a cluster of this machine, one a shard."""
    from pipeline.engine.cluster import cluster

    with cluster(EXECUTION.model_validate({"ray": {}}).ray) as ray:
        nothing = ray.remote(num_cpus=1, max_retries=0, max_calls=0)(_nothing)
        ray.get(nothing.remote())
        started = time.monotonic()
        flying: list[Any] = []
        left = count
        while flying or left:
            while left and len(flying) < 8:
                flying.append(nothing.remote())
                left -= 1
            done, flying = ray.wait(flying)
            ray.get(done)
        seconds = time.monotonic() - started
    print(f"{count:,} tasks of nothing: {seconds:.1f} s, {seconds / count * 1000:.2f} ms each")
    yield Ratio(f"tasks: {count:,} of nothing, in units of 30 s", seconds / 30 * 10_000 / count, 1.0, ceiling=True)


def _nothing() -> None:
    return None


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description="What scaling costs.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument(
        "--rows", nargs="+", type=int, default=[1000, 10_000, 1_000_000], help="of the manifest [%(default)s]"
    )
    parser.add_argument("--posts", nargs="+", type=int, default=[10_000, 1_000_000], help="of a data set [%(default)s]")
    parser.add_argument("--spread", type=int, default=500_000, help="posts that a cluster reads [%(default)s]")
    parser.add_argument("--shards", type=int, default=10_000, help="finished ones, and tasks [%(default)s]")
    parser.add_argument("--pictures", type=int, default=240, help="read by each engine [%(default)s]")
    parser.add_argument("--listed", type=int, default=100_000, help="pictures of `repro` [%(default)s]")
    parser.add_argument("--seconds", type=float, default=0.05, help="of a core that a picture takes [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there, too")
    arguments = parser.parse_args()
    chosen = arguments.parts or list(PARTS)
    ratios: list[Ratio] = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        steps: dict[str, Callable[[], Iterator[Ratio]]] = {
            "shards": lambda: compare_shards(arguments.rows, folder),
            "stages": lambda: compare_stages(arguments.posts, folder),
            "spread": lambda: compare_spread(arguments.spread, folder),
            "ray": lambda: compare_ray(arguments.pictures, arguments.seconds, folder),
            "tasks": lambda: compare_tasks(arguments.shards),
            "finished": lambda: compare_finished(arguments.shards, folder),
            "repro": lambda: compare_repro(arguments.listed, folder),
        }
        needs = {"ray": "ray", "spread": "ray", "tasks": "ray", "finished": "pyarrow"}
        missing = {name: package for name, package in needs.items() if find_spec(package) is None}
        for name, step in steps.items():
            if name in chosen and name not in missing:
                ratios += step()
    absent = {name: f"{package} is not installed" for name, package in missing.items() if name in chosen}
    report(ratios, machine(), arguments.json, absent)


if __name__ == "__main__":
    run_cli(main)
