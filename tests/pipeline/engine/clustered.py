"""Extractors that workers of a cluster make, and a run of one by a process of its own, which may be killed."""

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import run_cli
from pipeline.core.machine import cores
from pipeline.core.parts import Parts
from pipeline.core.records import Caption
from pipeline.core.store import Store
from pipeline.engine import shards, worker
from pipeline.engine.ray import RayEngine
from pipeline.engine.run import Summary, extract
from pipeline.extractors.registry import choose
from pipeline.images.pictures import Pictures
from pipeline.settings.params import EXECUTION
from tests.pipeline.engine.bench import Bench, MeanColour, colour, figures, reddish, rows_of

NEEDED = pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed (requirements-ray.lock)")
COUNT = 60


class Logged(MeanColour):
    """Writes down in a file each picture that it reads; what it says depends on the batch, as a model's floats may.

    It aborts on red pictures, and hangs in native code that lets no Python run on green ones.
    """

    def __init__(self, log: str = "", seconds: float = 0.0, version: int = 1, host: str = "") -> None:
        super().__init__(version, seconds)
        self.log, self.host = log, host

    def fingerprint(self) -> Mapping[str, Any]:
        own = os.environ.get(self.host) if self.host else None
        return {**super().fingerprint(), "extractor": "logged", "host": own}

    def load(self) -> None:
        self.write(f"load {cores()}")

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        self.write(f"batch {len(images)}")
        if any(map(reddish, images)):
            os.abort()
        if any(colour(image)[1] > 250 for image in images):
            ctypes.PyDLL(None).sleep(1000)  # with the interpreter's lock held
        time.sleep(self.seconds * len(images))
        self.write(f"read {len(images)}")
        mean = sum(sum(colour(image)) for image in images) / len(images)
        return [[Caption(f"{colour(image)} among {len(images)} of {mean:.4f}", 0.5)] for image in images]

    def write(self, line: str) -> None:
        if self.log:
            with open(self.log, "a", encoding="ascii") as file:
                file.write(f"{os.getpid()} {line}\n")


def section(**options: Any) -> dict[str, Any]:
    name = f"{Logged.__module__}:{Logged.__name__}"
    return {"extractor": name, name: options}


def execution(address: str | None = None, **of_ray: Any) -> Any:
    batches = dict.fromkeys(("objects", "captions", "ocr", "features", "knowledge"), 4)
    settings = {"engine": "ray", "ray": {"address": address, **of_ray}, "batch_size": batches}
    return EXECUTION.model_validate(settings)


def run(
    folder: Path,
    output: Path,
    results: Any,
    options: Mapping[str, Any],
    settings: Any,
    pictures: Pictures | None = None,
) -> Summary:
    """Read captions of a folder's pictures on a cluster, or with `settings` None in this process."""
    choice = choose("captions", section(**options), "params.yaml")
    engine = None if settings is None else RayEngine(section(**options), settings)
    return extract("captions", choice.create(), rows_of(folder), pictures or folder, output, results, 4, engine=engine)


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    call: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Remote:
    function: Any

    def remote(self, *arguments: Any) -> _Reference:
        return _Reference((self.function, *arguments))


class InTurn:
    """What the engine asks of ray, answered in this process, one task after another: its books, without a cluster.

    Args:
        fate: the error that the cluster has in the place of an answer, of a unit and those along with it.
    """

    def __init__(self, fate: Callable[..., BaseException | None]) -> None:
        self.fate = fate
        self.units: list[worker.Unit] = []

    def remote(self, **_: Any) -> type[_Remote]:
        return _Remote

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: _Reference) -> Any:
        done, order, unit, *along = reference.call
        if done is worker.read:
            self.units.append(unit)
        error = self.fate(unit, *along)
        if error is not None:
            raise error
        return done(order, unit, *along)


@dataclass(frozen=True, slots=True, kw_only=True)
class Booked(RayEngine):
    """The engine on what answers in turn."""

    in_turn: InTurn

    def cluster(self) -> AbstractContextManager[Any]:
        return nullcontext(self.in_turn)


class Place:
    """Pictures, what the local engine makes of them, and a log of what workers read.

    Attributes:
        pictures: where workers are to look for them; None: in their folder.
    """

    pictures: Pictures | None = None

    def __init__(self, place: Path, count: int = COUNT) -> None:
        self.bench, self.log, self.place = Bench(place, count), place / "log", place
        self.expected = self.local()

    def local(self) -> bytes:
        run(self.bench.folder, self.bench.output, self.bench.store, {}, None)
        return self.bench.output.read_bytes()

    def run(self, settings: Any, results: Any = None, **options: Any) -> tuple[int, int, int]:
        self.bench.output.unlink(missing_ok=True)
        results = results or Store.open(self.place / "other store")
        given = {"log": str(self.log), **options}
        return figures(run(self.bench.folder, self.bench.output, results, given, settings, self.pictures))

    @property
    def same(self) -> bool:
        return self.bench.output.read_bytes() == self.expected

    def logged(self, what: str = "batch") -> list[tuple[int, int]]:
        """Process and number of pictures of each batch that was begun (batch) or read; or of each load, its cores."""
        lines = self.log.read_text(encoding="ascii").splitlines() if self.log.exists() else []
        found = (line.split() for line in lines)
        return [(int(one[0]), int(one[2]) if len(one) > 2 else 0) for one in found if one[1] == what]

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["image"]: row for row in map(json.loads, self.bench.output.read_text().splitlines())}


def small() -> None:
    """Shards of some eight pictures, from here on."""
    shards.MEAN, shards.LEAST, shards.MOST = 8, 2, 20


def main() -> None:
    """Run what the first argument asks for, as JSON; not by ``-m``, as workers are to find :class:`Logged` by name."""
    asked = json.loads(sys.argv[1])
    small()

    def drive() -> None:
        results = Parts(asked["parts"]) if asked.get("parts") else Store.open(asked["other store"])
        settings = execution(**asked["ray"])
        print(run(Path(asked["folder"]), Path(asked["output"]), results, asked["options"], settings))

    run_cli(drive)
