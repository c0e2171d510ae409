"""The speed of a served model's extractor: many requests at once, over one at a time.

:mod:`benchmarks.extraction` runs the comparison; the command line here is the server, which answers each question
after the time that a model would take, as a process, so that both sides have a core.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import Ratio
from pipeline.core.errors import run_cli
from pipeline.core.store import Store
from pipeline.engine import run as extraction
from pipeline.extractors import registry
from pipeline.images import manifest as images
from pipeline.images.listing import list_pictures
from pipeline.settings.params import ExecutionParams, HttpExecution, ImagesParams

AT_ONCE = 16
SPEEDUP = 14.0
_ANSWER = json.dumps(
    {
        "choices": [{"message": {"role": "assistant", "content": "a dog on a beach"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 6},
    }
).encode()


async def _serve(latency: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:  # the client is done
                writer.close()
                return
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields.get(b"content-length", b"0")))
            if head.startswith(b"POST"):
                await asyncio.sleep(latency)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER))

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def _server(latency: float) -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.extraction_http", "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def compare_requests(rounds: int, latency: float = 0.1, turns: int = 20) -> Iterator[Ratio]:
    """Pictures per second with AT_ONCE requests in flight, over one at a time; and of a run with all in the store.

    Args:
        rounds: of which the best counts on either side, as another process's load is no part of it.
        latency: seconds that the server takes to answer.
        turns: how many times AT_ONCE pictures are read; one at a time, a single such batch.
    """
    with tempfile.TemporaryDirectory() as scratch, _server(latency) as url:
        folder = Path(scratch) / "images"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for number in range(AT_ONCE * turns):
            noise = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{number:04}.jpg")
        rows = list(images.manifest(list_pictures(folder), folder, ImagesParams()))
        fastest = {1: float("inf"), AT_ONCE: float("inf")}
        for number in range(rounds):
            for at_once in fastest:
                taken = rows if at_once > 1 else rows[:AT_ONCE]
                with Store.open(Path(scratch) / f"store {number} {at_once}") as store:
                    execution = ExecutionParams(http=HttpExecution(requests=at_once))
                    section = {"extractor": "http", "http": {"model": "m", "prompt": "What is it?", "url": url}}
                    captioner = registry.choose("captions", section).create(execution)
                    begin = time.perf_counter()
                    summary = extraction.extract(
                        "captions", captioner, taken, folder, Path(scratch) / "rows.jsonl", store, AT_ONCE
                    )
                    seconds = time.perf_counter() - begin
                if summary.read != len(taken):
                    raise RuntimeError(f"{summary}; expected all to be read")
                fastest[at_once] = min(fastest[at_once], seconds / len(taken))
    yield Ratio(
        f"http: {AT_ONCE} requests at once / one at a time, {1000 * latency:g} ms a request",
        fastest[1] / fastest[AT_ONCE],
        SPEEDUP,
    )


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extraction_http", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--latency", type=float, metavar="SECONDS", required=True, help="serve, and answer after these")
    asyncio.run(_serve(parser.parse_args().latency))


if __name__ == "__main__":
    run_cli(main)
