"""Prediction's speed: `ner.predict` over flair's `predict` with equal weights, over the encoder alone, and on ONNX.

``python -m benchmarks.prediction TAGGER`` on text alone, on the views that `dvc repro views` wrote; the tagger is
brought to flair by :mod:`ner.interop.flair.bridge`, and there are no figures where the two find different entities.
Every contestant runs in a separate process, flair's in flair's environment, with the same number of threads.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import Ratio, keep_freed_memory, machine, report, synchronize
from benchmarks.sides import ROOT, Side, Turn, compare, peaks, serve
from pipeline.core import environments, records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import View

FLAIR_TARGET, ENCODER_TARGET = 1.4, 0.9
OURS, ONNX, FLAIR, ENCODER, BATCHES = (
    "ours",
    "ours on onnxruntime",
    "flair",
    "encoder alone",
    "encoder alone, tokenizing too",
)
ONNX_TARGET = 1.0
FLAIR_RATIO, ENCODER_RATIO = "posts/s: ours / flair", "posts/s: ours / encoder alone on length-sorted batches"

Entities = list[list[list[Any]]]
"""Of each post: [first token, token after the last, type], in order."""


def ours(
    folder: Path, scratch: Path, batch_size: int, device: str
) -> tuple[Callable[[], float], Callable[[], Entities]]:
    """:meth:`ner.predict.Tagger.predict`, from tokens to entities with confidences."""
    from ner.tagger import Tagger

    tagger, views = Tagger.load(folder, device), list(records.read(scratch / "views.jsonl", View, "views"))

    def turn() -> float:
        begin = time.perf_counter()
        for _ in tagger.predict(views, batch_size):
            pass
        return time.perf_counter() - begin

    return turn, lambda: [
        [[one.start, one.end, one.type] for one in prediction.entities]
        for prediction in tagger.predict(views, batch_size)
    ]


def encoder_alone(scratch: Path, batch_size: int, device: str, *, tokenizing: bool) -> Callable[[], float]:
    """The encoder on length-sorted batches: tensors made beforehand, or from tokens."""
    from ner.models.folder import load_tagger, quietly
    from ner.views import collate, length_sorted_batches

    with quietly():
        model, encoder = load_tagger(_tagger_folder(scratch))
    model.to(device)
    views = list(records.read(scratch / "views.jsonl", View, "views"))

    def batches() -> list[Any]:
        encoded = encoder.encode(views, with_context=False)
        return [
            collate([encoded[place] for place in places], encoder.pad_id)
            for places in length_sorted_batches(encoded, batch_size)
        ]

    ready = [] if tokenizing else batches()

    def turn() -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            for batch in ready or batches():
                moved = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
                model.encoder(**moved)
            synchronize(device)
        return time.perf_counter() - begin

    return turn


def flair_predict(scratch: Path, batch_size: int, device: str) -> tuple[Callable[[], float], Callable[[], Entities]]:
    """flair's `predict` on Sentences made beforehand."""
    import flair
    from flair.data import Sentence
    from flair.models import SequenceTagger

    from ner.interop.flair.bridge import quiet_flair

    flair.device = torch.device(device)
    quiet_flair()
    tagger = SequenceTagger.load(scratch / "tagger.pt")
    views = list(records.read(scratch / "views.jsonl", View, "views"))
    sentences = [Sentence(view.tokens) for view in views]

    def turn() -> float:
        begin = time.perf_counter()
        tagger.predict(sentences, mini_batch_size=batch_size)
        return time.perf_counter() - begin

    def found() -> Entities:
        tagger.predict(sentences, mini_batch_size=batch_size)
        return [
            [
                [span.tokens[0].idx - 1, span.tokens[-1].idx, span.get_label(tagger.tag_type).value]
                for span in sentence.get_spans(tagger.tag_type)
            ]
            for sentence in sentences
        ]

    return turn, found


def _tagger_folder(scratch: Path) -> Path:
    return Path((scratch / "tagger.txt").read_text(encoding="utf-8"))


def _run_side(name: str, scratch: Path, batch_size: int, device: str) -> None:
    if name in (ENCODER, BATCHES):
        serve(encoder_alone(scratch, batch_size, device, tokenizing=name == BATCHES))
        return
    if name == FLAIR:
        turn, found = flair_predict(scratch, batch_size, device)
    else:
        folder = scratch / "onnx" if name == ONNX else _tagger_folder(scratch)
        turn, found = ours(folder, scratch, batch_size, device)
    file = scratch / f"{name}.json"

    def turn_and_tell() -> float:
        if not file.exists():  # in the turn that warms up
            file.write_text(json.dumps(found()), encoding="utf-8")
        return turn()

    serve(turn_and_tell)


def _compare_found(name: str, scratch: Path, views: list[View]) -> None:
    """Nobody is to be fast and wrong.

    Raises:
        RuntimeError: it does not find the entities that we do.
    """
    ours_found, theirs = (json.loads((scratch / f"{side}.json").read_text(encoding="utf-8")) for side in (OURS, name))
    differing = [view.id for view, one, other in zip(views, ours_found, theirs, strict=True) if one != other]
    if differing:
        raise RuntimeError(f"{name}: other entities in {len(differing)} posts, {differing[0]} among them")


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prediction", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("tagger", type=Path, metavar="TAGGER", nargs="?", help="a tagger's folder")
    parser.add_argument(
        "--views",
        type=Path,
        metavar="FILE",
        default=Path("data/views/test.jsonl"),
        help="posts, of which the text is read [%(default)s]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there, too")
    parser.add_argument("--posts", type=int, default=1000, help="at most so many [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=32, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant [%(default)s]")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="onnxruntime: cpu alone [%(default)s]")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each contestant [%(default)s]")
    parser.add_argument("--side", choices=(OURS, ONNX, FLAIR, ENCODER, BATCHES), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(arguments.threads)
        keep_freed_memory()
        _run_side(arguments.side, arguments.scratch, arguments.batch_size, arguments.device)
        return
    if arguments.tagger is None:
        raise UserError("TAGGER: name the folder of a trained tagger, such as models/tagger")
    from ner.interop.onnx import export
    from ner.models.folder import quietly

    if min(arguments.rounds, arguments.threads, arguments.posts, arguments.batch_size) < 1:
        raise UserError("--rounds, --threads, --posts and --batch-size: expected at least 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU here; use cpu")
    flair = environments.environment("flair")
    problem = flair.problem()
    names = [OURS, ENCODER, BATCHES]
    if arguments.device == "cpu":
        names.insert(1, ONNX)
    if problem is None:
        names.append(FLAIR)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        views = list(records.read(arguments.views, View, "views"))[: arguments.posts]
        records.write(scratch / "views.jsonl", [View(view.id, view.tokens, None, "") for view in views])
        (scratch / "tagger.txt").write_text(str(arguments.tagger.absolute()), encoding="utf-8")
        if ONNX in names:
            with quietly():
                export(arguments.tagger, scratch / "onnx")
        if problem is None:
            subprocess.run(
                [flair.python, "-m", "ner.flair_bridge", "export", arguments.tagger.absolute(), scratch / "tagger.pt"],
                check=True,
                cwd=ROOT,
            )
        turns = compare(
            [
                Side(
                    name,
                    flair.python if name == FLAIR else sys.executable,
                    [
                        "benchmarks.prediction",
                        "--side",
                        name,
                        "--scratch",
                        folder,
                        "--threads",
                        str(arguments.threads),
                        "--batch-size",
                        str(arguments.batch_size),
                        "--device",
                        arguments.device,
                    ],
                    arguments.threads,
                )
                for name in names
            ],
            arguments.rounds,
        )
        for name in (ONNX, FLAIR):
            if name in turns:
                _compare_found(name, scratch, views)
    report(
        _ratios(turns),
        {**machine(arguments.device), "threads of each": arguments.threads, "posts": len(views), **peaks(turns)},
        arguments.json,
        {} if problem is None else {FLAIR_RATIO: f"the environment `flair` {problem}: {flair.command}"},
    )


def _ratios(turns: dict[str, Turn]) -> list[Ratio]:
    mine = turns[OURS].seconds
    found = [
        Ratio(ENCODER_RATIO, turns[ENCODER].seconds / mine, ENCODER_TARGET),
        Ratio("posts/s: ours / encoder alone, tokenizing too", turns[BATCHES].seconds / mine),
    ]
    if ONNX in turns:
        found.insert(1, Ratio("posts/s: onnxruntime / torch", mine / turns[ONNX].seconds, ONNX_TARGET))
    if FLAIR in turns:
        found.append(Ratio(FLAIR_RATIO, turns[FLAIR].seconds / mine, FLAIR_TARGET))
        if turns[OURS].peak_bytes:
            found.append(Ratio("peak memory: flair / ours", turns[FLAIR].peak_bytes / turns[OURS].peak_bytes))
    return found


if __name__ == "__main__":
    run_cli(main)
