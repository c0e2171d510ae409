"""Training's speed: a system's two-view step over the encoder alone, and our trainer over flair's, on like batches.

``python -m benchmarks.training --encoder FOLDER`` on the views that `dvc repro views` wrote; every contestant runs in
a process of its own, flair's in flair's environment, with the same number of threads. The optimiser's own step is left
out everywhere: a trainer's loop runs with one that moves nothing. Where memory is held to a target, it is that of
further processes, whose allocator is left as a training's is.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import Ratio, keep_freed_memory, machine, report, training_sides, training_systems
from benchmarks.sides import Side, Turn, compare, peaks, serve
from benchmarks.training_sides import Work, prepare
from pipeline.core import environments, memory
from pipeline.core.errors import UserError, run_cli

SIDES = {**training_sides.SIDES, **training_systems.SIDES}
STEP_CEILING = {"cpu": 1.20, "cuda": 1.10}
SYSTEM_CEILING = {"cpu": 1.15, "cuda": 1.10}
MEMORY_CEILING = {"cpu": 1.25}
TEXT_TARGET = {"cpu": 1.3}
BOTH_TARGET = {"cpu": 1.3, "cuda": 2.5}
COMPARISONS = {
    "step": ["encoder alone", "our step"],
    "text": ["ours, text", "flair, text", "flair, text, own order", "ours, text, bfloat16", "flair, text, bfloat16"],
    "rpbert": ["rpbert's passes alone", "rpbert's step"],
    "iie4mner": ["iie4mner's pass and layers alone", "iie4mner's step"],
    "both": ["ours, both views", "flair, both views", "flair, both views, own order"],
}
MEMORY = {
    comparison: [step, f"{step}, cross-modal alone"]
    for comparison, step in (("step", "our step"), ("rpbert", "rpbert's step"), ("iie4mner", "iie4mner's step"))
}
"""Whose peaks are compared."""


def ratios(turns: dict[str, Turn], memory: dict[str, Turn], device: str) -> Iterator[Ratio]:
    """What is held to targets, from whichever sides took part in the turns, and in those for their memory."""

    def over(name: str, slower: str, faster: str, target: float | None, *, ceiling: bool = False) -> Iterator[Ratio]:
        if slower in turns and faster in turns:
            yield Ratio(name, turns[slower].seconds / turns[faster].seconds, target, ceiling)

    yield from over(
        "two-view step / encoder alone, no padding", "our step", "encoder alone", STEP_CEILING.get(device), ceiling=True
    )
    for system, faster, what in (
        ("rpbert", "passes alone", "three encoder passes"),
        ("iie4mner", "pass and layers alone", "one encoder pass and twelve layers"),
    ):
        name, ceiling = f"{system}: two-view step / {what} alone, no padding", SYSTEM_CEILING.get(device)
        yield from over(name, f"{system}'s step", f"{system}'s {faster}", ceiling, ceiling=True)
    yield from over("tokens/s on text: ours / flair", "flair, text", "ours, text", TEXT_TARGET.get(device))
    yield from over(
        "tokens/s on text: ours / flair with batches of its own, not sorted by length",
        "flair, text, own order",
        "ours, text",
        None,
    )
    yield from over("tokens/s on text, bfloat16: ours / flair", "flair, text, bfloat16", "ours, text, bfloat16", None)
    yield from over("tokens/s on text, ours: bfloat16 / float32", "ours, text", "ours, text, bfloat16", None)
    yield from over(
        "tokens/s on both views: ours / flair", "flair, both views", "ours, both views", BOTH_TARGET.get(device)
    )
    yield from over(
        "tokens/s on both views: ours / flair with batches of its own, not sorted by length",
        "flair, both views, own order",
        "ours, both views",
        None,
    )
    for comparison, (step, alone) in MEMORY.items():
        both, single = memory.get(step), memory.get(alone)
        if both and single and single.peak_bytes:
            name = f"{comparison}: peak memory: two-view step / step on the cross-modal view alone"
            yield Ratio(name, both.peak_bytes / single.peak_bytes, MEMORY_CEILING.get(device), ceiling=True)
    for kind in ("text", "both views"):
        ours, theirs = turns.get(f"ours, {kind}"), turns.get(f"flair, {kind}")
        if ours and theirs and ours.peak_bytes:
            yield Ratio(f"peak memory, {kind}: flair / ours", theirs.peak_bytes / ours.peak_bytes)


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--encoder", type=Path, metavar="FOLDER", help="a pretrained encoder with its tokenizer")
    parser.add_argument(
        "--views",
        type=Path,
        metavar="FILE",
        default=Path("data/views/train.jsonl"),
        help="labelled posts with contexts [%(default)s]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there, too")
    parser.add_argument("--batch-size", type=int, default=16, help="tweets a batch [%(default)s]")
    parser.add_argument("--batches", type=int, default=20, help="a turn [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant [%(default)s]")
    parser.add_argument("--only", choices=COMPARISONS, help="one of the comparisons [all]")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="[%(default)s]")
    parser.add_argument(
        "--precision",
        default="float32",
        choices=("float32", "bfloat16"),
        help="of step, rpbert and iie4mner on both sides [%(default)s]",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each contestant [%(default)s]")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(arguments.threads)
        if not arguments.memory:
            keep_freed_memory()
        memory.keep_few_kernels()  # as a training does
        kind, make = SIDES[arguments.side]
        serve(make(Work(arguments.scratch, kind, arguments.precision), arguments.device))
        return
    if arguments.encoder is None:
        raise UserError("--encoder: name the folder of a pretrained encoder")
    if min(arguments.rounds, arguments.threads, arguments.batches, arguments.batch_size) < 1:
        raise UserError("--rounds, --threads, --batches and --batch-size: expected at least 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no GPU here; use cpu")
    comparisons = [arguments.only] if arguments.only else list(COMPARISONS)
    problem = environments.environment("flair").problem()
    not_measured = (
        {}
        if problem is None
        else {
            name: f"the environment `flair` {problem}: python -m pipeline.environments sync flair"
            for comparison in comparisons
            for name in COMPARISONS[comparison]
            if name.startswith("flair")
        }
    )
    if arguments.device == "cuda":
        not_measured["flair, text, bfloat16"] = "flair's mixed precision on a GPU is float16"
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        n_subtokens, padding = prepare(
            arguments.encoder, arguments.views, scratch, arguments.batch_size, arguments.batches
        )
        if set(comparisons) & set(training_systems.SYSTEMS):
            training_systems.prepare_systems(arguments.encoder, scratch)
        turns: dict[str, Turn] = {}
        peak: dict[str, Turn] = {}
        # Each comparison by itself, so that few processes lie idle beside those that are measured.
        for comparison in comparisons:
            turns |= compare(
                [_side(name, arguments, scratch) for name in COMPARISONS[comparison] if name not in not_measured],
                arguments.rounds,
            )
            if arguments.device == "cpu":
                for name in MEMORY.get(comparison, []):
                    peak |= compare([_side(name, arguments, scratch, "--memory")], 1)
    found = {
        **machine(arguments.device),
        "precision of a step": arguments.precision,
        "threads of each": arguments.threads,
        "sub-tokens a batch of both views": round(n_subtokens),
        "padding": f"{100 * padding:.1f} %",
        **peaks({name: turn for name, turn in turns.items() if name not in peak} | peak),
    }
    report(list(ratios(turns, peak, arguments.device)), found, arguments.json, not_measured)


def _side(name: str, arguments: argparse.Namespace, scratch: Path, *further: str) -> Side:
    import sys

    python = environments.environment("flair").python if name.startswith("flair") else sys.executable
    return Side(
        name,
        python,
        [
            "benchmarks.training",
            "--side",
            name,
            "--scratch",
            str(scratch),
            "--device",
            arguments.device,
            "--precision",
            arguments.precision,
            "--threads",
            str(arguments.threads),
            *further,
        ],
        arguments.threads,
    )


if __name__ == "__main__":
    run_cli(main)
