"""What one pass for several kinds saves: processor time a picture and memory, against a pass for each.

:mod:`benchmarks.extraction` runs the comparison; the command line here is one process of it, as a stage is.
"""

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks import Ratio
from pipeline.core.errors import run_cli
from pipeline.core.kinds import KINDS, TEXT_KINDS
from pipeline.core.store import Store
from pipeline.engine.along import Along
from pipeline.engine.inputs import PictureInputs
from pipeline.engine.one_pass import OnePass
from pipeline.engine.run import run
from pipeline.extractors import registry
from pipeline.extractors.base import load
from pipeline.images import manifest as images
from pipeline.images.listing import list_pictures
from pipeline.images.pictures import Folder
from pipeline.images.pictures import load as load_picture
from pipeline.settings.params import ExecutionParams, ImagesParams

LIMITS = ImagesParams()
MODELS = {
    "captions": Path("checkpoints/sample/blip"),
    "objects": Path("checkpoints/sample/detector"),
    "features": Path("checkpoints/sample/resnet"),
}
NAMES = {"objects": "transformers", "captions": "blip", "features": "resnet"}
SIDES = (1600, 1200)
CHEAP = 0.75  # of the processor time of separate passes, where decoding is most of it
MEMORY = 800.0  # MB more than the largest of separate passes: what is held (400), and the other models


class _Run(NamedTuple):
    """A process: processor time of reading and its peak of memory, and what it wrote."""

    seconds: float
    megabytes: float
    rows: str


def write_pictures(folder: Path, count: int) -> Path:
    """JPEGs of 2 megapixels and some 500 kB, as telephones make them but for what is to be seen."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    width, height = SIDES
    for number in range(count):
        coarse = rng.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize(SIDES, Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (height, width, 3))
        pixels = np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=85)
    return folder


def extractor(kind: str, model: Path) -> Any:
    """The adapter as a stage makes it, loaded."""
    section = {"extractor": NAMES[kind], NAMES[kind]: {"model": str(model)}}
    made: Any = load(registry.choose(kind, section).create(ExecutionParams(device="cpu")))
    return made


def measure(folder: Path, models: Mapping[str, Path], where: Path) -> None:
    """Read the kinds of `models`, the first with the others along, and print processor seconds, MB and a digest."""
    rows = list(images.manifest(list_pictures(folder), folder, LIMITS))
    inputs = PictureInputs(rows, Folder(folder, LIMITS), LIMITS)
    extractors = {kind: extractor(kind, model) for kind, model in models.items()}
    loaded = time.process_time()
    along = {kind: partial(Along, kind, made, inputs, KINDS[kind].batch_size) for kind, made in extractors.items()}
    with Store.open(where / "store") as store:
        for kind, made in extractors.items():
            output = where / kind
            along.pop(kind)
            engine = OnePass(KINDS[kind].batch_size, 2, dict(along))
            run(kind, made, inputs, output, store, engine=engine)
            files = [output] if kind in TEXT_KINDS else sorted(output.iterdir())
            print(kind, hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest())
    print(time.process_time() - loaded, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def _process(folder: Path, models: Mapping[str, Path]) -> _Run:
    named = [f"{kind}={model}" for kind, model in models.items()]
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "benchmarks.extraction_one_pass", str(folder), scratch, *named]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    *rows, figures = done.stdout.splitlines()
    seconds, megabytes = map(float, figures.split())
    return _Run(seconds, megabytes, "\n".join(rows))


def compare_one_pass(count: int) -> Iterator[Ratio]:
    """One pass of the sample's models over separate ones, on `count` pictures.

    Raises:
        RuntimeError: the rows are not the same.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_pictures(Path(scratch) / "pictures", count)
        decoding = _decoding(folder)
        apart = [_process(folder, {kind: model}) for kind, model in MODELS.items()]
        together = _process(folder, MODELS)
    if together.rows != "\n".join(one.rows for one in apart):
        raise RuntimeError("one pass gives other rows than separate passes")
    seconds = sum(one.seconds for one in apart)
    most = max(one.megabytes for one in apart)
    each = ", ".join(f"{kind} {one.seconds / count * 1000:.0f}" for kind, one in zip(MODELS, apart, strict=True))
    print(
        f"one pass: {together.seconds / count * 1000:.0f} ms of a core a picture, at most {together.megabytes:.0f} MB; "
        f"apart: {seconds / count * 1000:.0f} ms ({each}), {most:.0f} MB; decoding alone: {decoding * 1000:.0f} ms",
        flush=True,
    )
    note = f"the sample's models, {count} pictures of 2 MP"
    yield Ratio(f"one pass / separate passes, processor time, {note}", together.seconds / seconds, CHEAP, ceiling=True)
    more = (together.megabytes - most) / MEMORY
    yield Ratio(
        f"one pass: memory beyond that of separate passes, in units of {MEMORY:.0f} MB", more, 1.0, ceiling=True
    )


def _decoding(folder: Path) -> float:
    """Processor seconds that reading and decoding a picture takes."""
    rows = list(images.manifest(list_pictures(folder), folder, LIMITS))
    pictures = Folder(folder, LIMITS)
    begun = time.process_time()
    for row in rows:
        load_picture(pictures, row.image, str(row.sha256), LIMITS)
    return (time.process_time() - begun) / len(rows)


def main() -> None:
    """One process of the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.extraction_one_pass")
    parser.add_argument("folder", type=Path)
    parser.add_argument("where", type=Path)
    parser.add_argument("models", nargs="+", metavar="KIND=MODEL")
    arguments = parser.parse_args()
    models = dict(one.split("=", 1) for one in arguments.models)
    measure(arguments.folder, {kind: Path(model) for kind, model in models.items()}, arguments.where)


if __name__ == "__main__":
    run_cli(main)
