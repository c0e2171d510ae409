"""What the stages take that go through all posts: memory, processor time, and what of it workers can do."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import Ratio
from pipeline.settings import yaml

ROOT = Path(__file__).resolve().parent.parent


def write_data_set(folder: Path, count: int) -> Path:
    """A project of `count` posts with ids in no order and a picture each, all but one of them missing, and contexts."""
    pictures = folder / "set/pictures"
    pictures.mkdir(parents=True)
    ids = [f"{number * 7919 % 999_999_937:010}" for number in range(count)]
    Image.new("RGB", (8, 8)).save(pictures / f"{ids[0]}.jpg")
    words = ("RT\tO", "with\tO", "Ada\tB-PER", "Lovelace\tI-PER")
    with (folder / "set/train.txt").open("w", encoding="utf-8") as file:
        for number, each in enumerate(ids):
            file.write(f"IMGID:{each}\n" + "\n".join((*words, f"n{number % (count // 2)}\tO")) + "\n\n")
    settings, _ = yaml.load(ROOT / "params.yaml")
    files = {"root": "set", "format": "conll", "train": ["train.txt"], "dev": [], "test": []}
    settings["data"] |= {**files, "unlabelled": [], "relation": [], "images": "pictures", "label_column": 2}
    settings["views"]["kinds"] = list(_SAID)
    (folder / "params.yaml").write_text(yaml.dump(settings), encoding="utf-8")
    (folder / "data/contexts").mkdir(parents=True)
    for kind, items in _SAID.items():
        with (folder / f"data/contexts/{kind}.jsonl").open("w", encoding="utf-8") as file:
            for each in sorted(ids):
                head = {"image": f"{each}.jpg", "sha256": None, "status": "ok", "error": None}
                file.write(json.dumps({**head, kind: items}) + "\n")
    return folder


_SAID: dict[str, list[dict[str, Any]]] = {
    "captions": [{"text": "a dog on a beach with a red ball", "score": 0.5}],
    "objects": [{"label": name, "attribute": None, "score": 0.9, "box": [1, 2, 30, 40]} for name in ("dog", "ball")],
    "ocr": [{"text": "BEACH", "score": 0.8, "polygon": None}],
}
_STAGE = """
import importlib, sys, time
began, started = time.monotonic(), time.process_time()
importlib.import_module("stages." + sys.argv.pop()).main()
seconds, wall = time.process_time() - started, time.monotonic() - began
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak) / 1000, seconds, wall)
"""


def run_stage(project: Path, stage: str, cores: int | None = None) -> tuple[float, float, float]:
    """Run a stage in a process of its own.

    Args:
        project: where its params.yaml is.
        stage: its name.
        cores: that workers on this machine may use; None: as many as there are.

    Returns:
        MB at the peak, seconds of a core and seconds on the clock, of that process.
    """
    place = {"PYTHONPATH": str(ROOT), "SIGHTREAD_STORE": str(project / "store")}
    if cores is not None:
        place["SIGHTREAD_CORES"] = str(cores)
    command = [sys.executable, "-c", _STAGE, stage]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=project, env={**os.environ, **place})
    megabytes, seconds, wall = map(float, done.stdout.splitlines()[-1].split())
    return megabytes, seconds, wall


def compare_stages(counts: Sequence[int], folder: Path) -> Iterator[Ratio]:
    """Memory and processor time of the stages that go through all posts, each run in a process of its own."""
    memory: dict[tuple[str, int], float] = {}
    for count in counts:
        project = write_data_set(folder / f"posts {count}", count)
        for stage in ("posts", "images", "views"):
            memory[stage, count], seconds, _ = run_stage(project, stage)
            print(f"{stage}, {count:,} posts: {memory[stage, count]:.1f} MB, {seconds / count * 1e6:.0f} µs of a core")
    few, many = counts[0], counts[-1]
    for stage in ("posts", "images", "views"):
        growth = memory[stage, many] / memory[stage, few]
        yield Ratio(f"{stage}: memory at {many:,} posts to that at {few:,}", growth, 1.15, ceiling=True)


def compare_spread(count: int, folder: Path) -> Iterator[Ratio]:
    """Posts and views by workers of a cluster of this machine: what the driver still does itself, and how long it is.

    What the clock says is with the start of the cluster, and means something where no other work runs.
    """
    project = write_data_set(folder / f"spread {count}", count)
    for room in ("ner", "pipeline", "stages"):  # which workers look for in the project
        (project / room).symlink_to(ROOT / room)
    settings, _ = yaml.load(project / "params.yaml")
    shutil.copy(project / "params.yaml", project / "local.yaml")
    settings["execution"] |= {"engine": "ray"}
    (project / "ray.yaml").write_text(yaml.dump(settings), encoding="utf-8")
    for stage in ("posts", "views"):
        file, expected = project / f"data/{stage}/train.jsonl", b""
        own: dict[str, float] = {}
        for name, engine, cores in (("local", "local", None), ("1 worker", "ray", 1), ("2 workers", "ray", 2)):
            shutil.copy(project / f"{engine}.yaml", project / "params.yaml")
            megabytes, own[name], wall = run_stage(project, stage, cores)
            found = file.read_bytes()
            assert not expected or found == expected
            expected = found
            each = own[name] / count * 1e6
            print(f"{stage}, {name}: {each:.0f} µs of the driver's core a post, {megabytes:.0f} MB, {wall:.1f} s")
        yield Ratio(
            f"spread: {stage}: the driver's processor time to the local engine's",
            own["2 workers"] / own["local"],
            0.5,
            ceiling=True,
        )
