"""What a second `dvc repro` costs, where DVC watches a listing of pictures, tars of them, and their folder.

The project is a copy of this one, the data set made: posts with a picture each and captions that are read from a file,
so that all stages to `views` run for real, and no model. Processor time is what counts: DVC waits for little else.
"""

import io
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from benchmarks import Ratio
from pipeline.core.store import batched
from pipeline.settings import yaml

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 5  # that it may take
_WORDS = ["the", "a", "dog", "beach", "London", "Oprah", "won", "with", "red", "ball", "at", "Madison", "Square"]


class Project:
    """A copy of this project, its pictures beside it, with a store of its own.

    Args:
        folder: where all of it goes.
        count: posts, each with its picture.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.pictures, self.root = folder / "project", folder / "pictures", folder / "project/corpora/made"
        self._store = folder / "store"
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in listed.split("\0"):
            if (ROOT / name).is_file() and not name.startswith(("tests/", "sample/data/")):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        subprocess.run(["git", "init", "-q"], cwd=self.folder, check=True)
        self._make(count)
        self.edit(
            data={
                **{"root": "corpora/made", "format": "jsonl", "images": "../../../pictures", "listing": "list.sha256"},
                **{split: [f"{split}.jsonl"] for split in ("train", "dev", "test")},
            },
            objects={"extractor": None},
            ocr={"extractor": None},
            captions={"extractor": "precomputed", "precomputed": {"path": "corpora/made/captions.jsonl"}},
        )

    def _make(self, count: int) -> None:
        """Posts, captions, and pictures that differ in the bytes behind their end."""
        self.root.mkdir(parents=True)
        self.pictures.mkdir()
        buffer, rng = io.BytesIO(), random.Random(0)
        Image.new("RGB", (32, 32), (200, 30, 40)).save(buffer, "JPEG")
        tenth = max(count // 10, 1)
        splits = {"dev": (0, tenth), "test": (tenth, 2 * tenth), "train": (2 * tenth, count)}
        with (self.root / "captions.jsonl").open("w", encoding="utf-8") as captions:
            for split, numbers in splits.items():
                with (self.root / f"{split}.jsonl").open("w", encoding="utf-8") as posts:
                    for number in range(*numbers):
                        name = f"{number:08}.jpg"
                        (self.pictures / name).write_bytes(buffer.getvalue() + number.to_bytes(8, "big"))
                        tokens, labels = rng.choices(_WORDS, k=12), ["B-LOC", *["O"] * 11]
                        post = {"id": str(number), "tokens": tokens, "labels": labels, "image": name}
                        posts.write(json.dumps(post) + "\n")
                        said = [{"text": " ".join(rng.choices(_WORDS, k=10)), "score": 0.5}]
                        captions.write(json.dumps({"image": name, "captions": said}) + "\n")

    def pack(self) -> None:
        """Put the pictures into tars of the data set, a thousand each."""
        (self.root / "tars").mkdir()
        for number, names in enumerate(batched(sorted(os.listdir(self.pictures)), 1000)):
            with tarfile.open(self.root / f"tars/{number:05}.tar", "w") as tar:
                for name in names:
                    tar.add(self.pictures / name, name)

    def edit(self, **sections: dict[str, object]) -> None:
        """Change keys of params.yaml."""
        path = self.folder / "params.yaml"
        params = yaml.load(path).values
        for section, changes in sections.items():
            for key, value in changes.items():
                if isinstance(value, dict):
                    params[section][key].update(value)
                else:
                    params[section][key] = value
        path.write_text(yaml.dump(params), encoding="utf-8")

    def run(self, *command: str) -> tuple[float, float, str]:
        """Run a module of Python in the project: seconds of the clock, of processors, and what it printed."""
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))  # of dvc's `python`
        environment = {**os.environ, "SIGHTREAD_STORE": str(self._store), "PYTHONPATH": "", "PATH": path}
        started, used = time.monotonic(), _used()
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}")
        return time.monotonic() - started, _used() - used, done.stdout


def _used() -> float:
    """Seconds of processors that ended children have taken, and theirs."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime


def compare_repro(count: int, folder: Path) -> Iterator[Ratio]:
    """A `dvc repro views` that has nothing to do: pictures listed and elsewhere, in tars and in a folder it sees."""
    project = Project(folder / "repro", count)
    _say("dvc --version", project.run("dvc", "--version"))
    _say(f"python -m pipeline.listing, {count:,} pictures", project.run("pipeline.listing"))
    _say("the same again", project.run("pipeline.listing"))
    seconds = {}
    for place in ("a listing", "tars", "a folder"):
        if place == "tars":
            project.pack()
            project.edit(data={"images": "tars/*.tar"})
        elif place == "a folder":
            shutil.rmtree(project.root / "tars")
            project.pictures.rename(project.root / "pictures")
            project.edit(data={"images": "pictures"})
        _say(f"dvc repro views, {place}", project.run("dvc", "repro", "views"))
        found = project.run("dvc", "repro", "views")
        assert "Running stage" not in found[2], found[2]
        _say(f"the second dvc repro views, {place}", found)
        lock = (project.folder / "dvc.lock").read_text(encoding="utf-8")
        print(f"dvc.lock: {len(lock):,} bytes, of pictures' names {lock.count('0.jpg')}")
        seconds[place] = found[1]
    yield Ratio(
        f"repro: the second, {count:,} listed pictures, in units of {SECONDS} s of a core",
        seconds["a listing"] / SECONDS,
        1.0,
        ceiling=True,
    )
    for place in ("tars", "a folder"):
        yield Ratio(f"repro: the second with {place} that DVC watches, to it", seconds[place] / seconds["a listing"])


def _say(what: str, found: tuple[float, float, str]) -> None:
    print(f"{what}: {found[1]:.1f} s of a core, {found[0]:.1f} s", flush=True)
