"""A system's table of docs/systems.md, on the sample: `python -m sample.systems`, after `dvc repro` with its settings.

What text alone, both views and the KL term give it under every condition, and on the posts that one kind of context
decides. It trains on the outputs of the pipeline with the settings of params.yaml, and changes only what a row says.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.core.errors import run_cli
from pipeline.core.files import write_json
from pipeline.settings import params
from pipeline.settings.params import Params
from sample import results
from sample.dataset import KINDS, read_decides
from sample.results import CONDITIONS, SYSTEMS, Table
from stages.shared import paths, visuals

EVERY = "every post"


def measure(settings: Params, seeds: Sequence[int], bar: Any) -> dict[str, Table]:
    """F1 of text alone, both views, both and KL.

    Returns:
        by row, then by which posts (EVERY, or those that a kind decides), then by condition, a value for each seed.
    """
    views, decides = results.split_views(settings, None), read_decides(settings.data.root)
    which = {EVERY: None} | {kind: {name for name, by in decides.items() if by == kind} for kind in KINDS}
    seen = visuals.opened()
    table: dict[str, Table] = {row: {posts: {} for posts in which} for row in SYSTEMS}
    for seed in seeds:
        for row, (_, changes) in SYSTEMS.items():
            tagger = results.run(settings, views, {**changes, "seed": seed}, seen)
            for condition in CONDITIONS[:1] if row == "text" else CONDITIONS:
                for posts, only in which.items():
                    f1 = results.f1(tagger, views["test"], condition, settings.evaluate, only)
                    table[row][posts].setdefault(condition, []).append(f1)
            bar.update()
    return table


def markdown(table: dict[str, Table], seeds: Sequence[int]) -> str:
    """The rows, for every post and for those that a kind decides."""
    heads = ["trained on", "posts", *(f"`{condition}`" for condition in CONDITIONS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row, (name, _) in SYSTEMS.items():
        for posts, by_condition in table[row].items():
            called = posts if posts == EVERY else f"decided by {posts}"
            cells = [results.cell(by_condition.get(condition)) for condition in CONDITIONS]
            lines.append(f"| {' | '.join([name, called, *cells])} |")
    return "\n".join(lines) + f"\n\nStrict micro-F1 in points; mean ± standard deviation of the seeds {list(seeds)}.\n"


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(prog="python -m sample.systems", description="The tables of docs/systems.md.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every score")
    options = parser.parse_args()
    settings = params.load(paths.PARAMS)
    with tqdm(total=len(options.seeds) * len(SYSTEMS), unit="tagger", disable=None) as bar:
        table = measure(settings, options.seeds, bar)
    print(markdown(table, options.seeds), end="")
    if options.json:
        write_json(options.json, {"system": settings.train.model, "seeds": options.seeds, "f1": table})


if __name__ == "__main__":
    run_cli(main)
