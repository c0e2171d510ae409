"""`python -m ner.onnx export TAGGER FOLDER`: a tagger becomes an ONNX graph that ner.predict reads.

`python -m ner.onnx compare FILE TAGGER FOLDER …` states size, speed and F1 of a tagger and of its exports.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ner.formats import FORMATS, read_input
from ner.interop import onnx, quantised
from ner.models.folder import quietly
from ner.scoring.f1 import MICRO, score
from ner.tagger import Tagger
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import View

ROUNDS = 3
"""How often each tagger reads all posts; the fastest round counts, as other work on the machine only slows it."""


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m ner.onnx", description="Run a tagger on onnxruntime.")
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", help="write a tagger as an ONNX graph that ner.predict reads")
    exporting.add_argument("tagger", metavar="TAGGER", help="a tagger's folder, such as models/tagger")
    exporting.add_argument("folder", metavar="FOLDER", help="a folder to be made, such as models/tagger-onnx")
    exporting.add_argument(
        "--pictures",
        action="store_true",
        help="a graph that reads features and objects of pictures, for a tagger of such a system; else text alone",
    )
    exporting.add_argument("--int8", action="store_true", help="with weights of 8 bits: a quarter of the size")
    comparing = commands.add_parser("compare", help="state size, speed and F1 of a tagger and of its exports")
    comparing.add_argument("file", metavar="FILE", help="labelled posts, as data/views/test.jsonl")
    comparing.add_argument("taggers", metavar="TAGGER", nargs="+", help="folders; the first is what others are held to")
    comparing.add_argument("--format", choices=FORMATS, default="jsonl", help="of FILE [%(default)s]")
    comparing.add_argument("--batch-size", type=int, default=32, help="posts the encoder reads at once [%(default)s]")
    arguments = parser.parse_args()
    with quietly():
        if arguments.command == "compare":
            views = [view for view, _ in read_input(arguments.file, arguments.format)]
            print(*compare(views, arguments.taggers, arguments.batch_size, arguments.file), sep="\n")
            return
        write = quantised.export if arguments.int8 else onnx.export
        written = write(arguments.tagger, arguments.folder, with_pictures=arguments.pictures)
    n_bytes = sum(path.stat().st_size for path in written.iterdir())
    print(f"{written}: {n_bytes / 1e6:,.1f} MB; tag with: python -m ner.predict {written}", file=sys.stderr)


def compare(views: list[View], taggers: list[str], batch_size: int, source: str) -> Iterator[str]:
    """The lines of a table: size on the disk, posts a second, strict micro-F1 with contexts and without.

    Args:
        views: labelled; read by each tagger on its CPU.
        taggers: folders.
        batch_size: posts the encoder reads at once.
        source: the file of the views, for messages.

    Raises:
        UserError: a post has no labels, or a folder is no tagger's.
    """
    if not views or any(view.labels is None for view in views):
        raise UserError(f"{source}: expected posts with labels, each of them, and one at least")
    gold = [view.labels or [] for view in views]
    with_contexts = any(view.context for view in views)
    names = ["text_only", *(["cross_modal"] if with_contexts else [])]
    yield f"{'':<30} {'MB':>8} {'posts/s':>8} {'ratio':>6}" + "".join(f" {name:>12}" for name in names)
    first = 0.0
    for folder in taggers:
        tagger = Tagger.load(folder, "cpu")
        list(tagger.predict(views[:batch_size], batch_size))
        best, scores = float("inf"), []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            predictions = [
                list(tagger.predict(views, batch_size, with_context=name == "cross_modal", adapt=False))
                for name in names
            ]
            best = min(best, time.perf_counter() - started)
            scores = [score(gold, [each.predicted for each in found])["strict"][MICRO]["f1"] for found in predictions]
        speed = len(names) * len(views) / best
        first = first or speed
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
        yield f"{folder[-30:]:<30} {size:>8,.1f} {speed:>8,.0f} {speed / first:>6.2f}" + "".join(
            f" {100 * value:>12.2f}" for value in scores
        )


if __name__ == "__main__":
    run_cli(main)
