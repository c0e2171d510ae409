"""`python -m ner.scoring GOLD PREDICTED [OTHER]`: CoNLL-like files scored against gold; two systems tested."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ner.scoring.comparison import OVERLAP_GLOSSES, compare, overlap_scores
from ner.scoring.f1 import CONFIDENCE, SAMPLES, SEED
from ner.scoring.matching import match
from ner.scoring.surface import Known, score
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import Post
from pipeline.corpus import conll
from pipeline.corpus.reading import unique_ids
from pipeline.corpus.report import described


def table(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Scores as a text table, in percent."""
    lines = []
    for reading, rows in scores.items():
        lines.append(f"{reading:<18} {'precision':>9} {'recall':>9} {'f1':>9} {'support':>9}")
        for name, row in rows.items():
            figures = " ".join(f"{100 * row[key]:>9.2f}" for key in ("precision", "recall", "f1"))
            lines.append(f"{name:<18} {figures} {row['support']:>9}{_bounds(row['f1_ci'])}")
        lines.append("")
    return "\n".join(lines).rstrip()


def comparison_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Differences as a text table, in points of F1."""
    lines = [f"{'OTHER - PREDICTED':<18} {'f1':>9} {'p, 1-sided':>10}"]
    lines += [
        f"{reading:<18} {100 * row['difference']:>+9.2f} {row['p_value']:>10.4f}{_bounds(row['difference_ci'])}"
        for reading, row in results.items()
    ]
    return "\n".join(lines)


def notes(samples: int, confidence: float, seed: int, *, compared: bool) -> str:
    """What the figures of the tables are.

    Args:
        samples, confidence, seed: of the bootstrap.
        compared: whether two systems were tested against each other.
    """
    lines = []
    if samples:
        bootstrap = f"bootstrap over posts ({samples:,} samples, seed {seed})"
        lines.append(f"[low, high]: {100 * confidence:g} % confidence interval of F1, by a {bootstrap}")
        if compared:
            lines.append(f"p: one-sided, of the system that scored better, by a paired {bootstrap}")
    lines += [f"{name}: {what}" for name, what in OVERLAP_GLOSSES.items()]
    return "\n".join(lines)


def _bounds(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"  [{100 * bounds[0]:.2f}, {100 * bounds[1]:.2f}]"


def _read(path: Path, label_column: int) -> list[Post]:
    """The posts of a file; what is no part of them is said on stderr."""
    odd: Counter[str] = Counter()
    posts = conll.read(path, label_column=label_column, odd=odd)
    if skipped := ", ".join(described(odd)):
        print(f"{path}: {skipped}", file=sys.stderr)
    return posts


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m ner.scoring",
        description="Score CoNLL-like files by a gold one; with OTHER, test the two systems against each other.",
    )
    parser.add_argument("gold", type=Path, metavar="GOLD", help="token<TAB>label lines, blank line between posts")
    parser.add_argument("predicted", type=Path, metavar="PREDICTED", help="the same posts with predicted labels")
    parser.add_argument("other", type=Path, metavar="OTHER", nargs="?", help="and as another system predicted them")
    parser.add_argument(
        "--label-column", type=int, default=2, metavar="N", help="which column holds the labels [%(default)s]"
    )
    parser.add_argument(
        "--train", type=Path, metavar="FILE", help="what was trained on: rows for names that it has, and for others"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--bootstrap-samples", type=int, default=SAMPLES, metavar="N", help="0: no interval [%(default)s]"
    )
    parser.add_argument("--confidence", type=float, default=CONFIDENCE, help="of the intervals [%(default)s]")
    parser.add_argument("--seed", type=int, default=SEED, help="of the bootstrap [%(default)s]")
    arguments = parser.parse_intermixed_args()
    samples, confidence, seed = arguments.bootstrap_samples, arguments.confidence, arguments.seed
    if samples < 0 or not 0 < confidence < 1 or seed < 0:
        raise UserError("--bootstrap-samples and --seed must be at least 0 and --confidence between 0 and 1")
    if arguments.other is not None and not samples:
        raise UserError("--bootstrap-samples 0: testing two systems against each other takes at least one sample")
    posts = _read(arguments.gold, arguments.label_column)
    if not posts:
        raise UserError(f"{arguments.gold}: no posts; expected token<TAB>label lines")
    # By id, as in the pipeline's files, so that the bootstrap draws the same posts and gives the same intervals.
    ids = [post.id for post in unique_ids(posts)]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    gold = [posts[place].labels or [] for place in order]
    systems: list[list[list[str]]] = []
    for path in filter(None, (arguments.predicted, arguments.other)):
        matched = match(posts, _read(path, arguments.label_column), str(arguments.gold), str(path))
        systems.append([matched[place].labels or [] for place in order])
    known = None if arguments.train is None else Known.of(_read(arguments.train, arguments.label_column))
    tokens = [posts[place].tokens for place in order]
    scores = [
        score(tokens, gold, system, known, bootstrap_samples=samples, confidence=confidence, seed=seed)
        | overlap_scores(gold, system)
        for system in systems
    ]
    if len(systems) == 1:
        said = f"{table(scores[0])}\n\n{notes(samples, confidence, seed, compared=False)}"
        print(json.dumps(scores[0], indent=2) if arguments.json else said)
        return
    comparison = compare(gold, *systems, samples=samples, confidence=confidence, seed=seed)
    if arguments.json:
        print(json.dumps({"predicted": scores[0], "other": scores[1], "comparison": comparison}, indent=2))
        return
    for path, rows in zip((arguments.predicted, arguments.other), scores, strict=True):
        print(f"{path}\n{table(rows)}\n")
    print(f"{comparison_table(comparison)}\n\n{notes(samples, confidence, seed, compared=True)}")


if __name__ == "__main__":
    run_cli(main)
