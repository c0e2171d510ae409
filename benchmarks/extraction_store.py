"""The extraction engine's speed on finished work: results that are all in the store, files that have not changed.

:mod:`benchmarks.extraction` runs both comparisons; the command line here is the process that one of them starts.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import Ratio
from pipeline.core.errors import run_cli
from pipeline.core.files import write_jsonl
from pipeline.core.records import ImageRow
from pipeline.core.store import Store, batched, digest
from pipeline.engine import run as extraction
from pipeline.extractors import registry
from pipeline.extractors.base import fingerprint_of
from pipeline.images import manifest as images
from pipeline.settings.params import ExecutionParams, ImagesParams

LIMITS = ImagesParams()
ROWS_A_SECOND = 20_000.0
MEMORY_CEILING = 1.1


def stored_captioner() -> Any:
    """The sample's captioner, which is not loaded as long as every result is in the store."""
    section = {"extractor": "blip", "blip": {"model": "checkpoints/sample/blip"}}
    return registry.choose("captions", section).create(ExecutionParams(device="cpu"))


def fill_store(folder: Path, count: int) -> Path:
    """A store with a caption for each of `count` pictures; their manifest."""
    fingerprint = digest(fingerprint_of(stored_captioner()))
    keys = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    with Store.open(folder) as store:
        for some in batched(enumerate(keys), 10_000):
            store.put_many(
                fingerprint,
                {key: b'[{"text": "%d dogs on a beach", "score": 0.5}]' % number for number, key in some},
            )
    manifest = folder / "images.jsonl"
    write_jsonl(
        manifest,
        (asdict(ImageRow(f"{number:09d}.jpg", key, 640, 480, "JPEG", "ok", None)) for number, key in enumerate(keys)),
    )
    return manifest


def pass_over_store(folder: Path) -> dict[str, float]:
    """One stage over a manifest of finished pictures, in a separate process: pictures per second, and peak memory."""
    with Store.open(folder) as store:
        begin = time.perf_counter()
        summary = extraction.extract(
            "captions", stored_captioner(), folder / "images.jsonl", None, folder / "rows.jsonl", store
        )
        seconds = time.perf_counter() - begin
    if summary.read or summary.failed:
        raise RuntimeError(f"{folder}: {summary}; expected all from the store")
    return {"rate": summary.from_store / seconds, "peak": peak_megabytes()}


def peak_megabytes() -> float:
    """The most memory this process has had, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def compare_store(counts: Sequence[int]) -> Iterator[Ratio]:
    """Rows per second, and memory over many rows against few, of a stage that finds every result in the store."""
    measured = []
    for count in counts:
        with tempfile.TemporaryDirectory() as scratch:
            fill_store(Path(scratch), count)
            command = [sys.executable, "-m", "benchmarks.extraction_store", "--pass-over-store", scratch]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    few, many = measured
    yield Ratio(f"store: pictures per second, all {counts[1]:,} in the store", many["rate"], ROWS_A_SECOND)
    yield Ratio(
        f"store: peak memory, {counts[1]:,} rows / {counts[0]:,}",
        many["peak"] / few["peak"],
        MEMORY_CEILING,
        ceiling=True,
    )


def compare_images(count: int) -> Iterator[Ratio]:
    """Rows a second of the stage `images` on files that have not changed since its last run.

    Raises:
        RuntimeError: it opened one of them, or found something else in it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder, names = Path(scratch) / "images", [f"{number}.jpg" for number in range(count)]
        folder.mkdir()
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / names[0])
        data = (folder / names[0]).read_bytes()
        for name in names[1:]:
            (folder / name).write_bytes(data + os.urandom(8))  # behind the picture's end: other bytes, same picture
        past = time.time() - 60  # a file's time stamp is believed once it has settled
        for name in names:
            os.utime(folder / name, (past, past))
        with Store.open(Path(scratch) / "store") as store:
            first = list(images.manifest(names, folder, LIMITS, store))
            begin = time.perf_counter()
            again = list(images.manifest(names, folder, LIMITS, store))
            seconds = time.perf_counter() - begin
            with opened_below(folder) as opened:
                list(images.manifest(names, folder, LIMITS, store))
    if again != first or {row.status for row in first} != {"ok"}:
        raise RuntimeError("the second run's rows are not those of the first")
    if opened:
        raise RuntimeError(f"the second run opened {len(opened)} pictures, {opened[0]} for one")
    yield Ratio(f"images: pictures per second, {count:,} unchanged files, none opened", count / seconds, ROWS_A_SECOND)


_watched: list[tuple[str, list[str]]] = []  # an audit hook stays for good: it looks here who wants to know


def _note_open(event: str, details: tuple[object, ...]) -> None:
    if _watched and event == "open" and isinstance(details[0], str | bytes):
        path = os.fsdecode(details[0])
        for folder, opened in _watched:
            if path.startswith(folder):
                opened.append(path)


@contextmanager
def opened_below(folder: Path) -> Iterator[list[str]]:
    """The files below `folder` that this process opens in the body of the `with`."""
    sys.addaudithook(_note_open)
    opened: list[str] = []
    _watched.append((f"{folder.resolve()}{os.sep}", opened))
    yield opened
    _watched.pop()


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extraction_store", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--pass-over-store", type=Path, metavar="DIR", required=True, help="a store, and its manifest")
    print(json.dumps(pass_over_store(parser.parse_args().pass_over_store)))


if __name__ == "__main__":
    run_cli(main)
