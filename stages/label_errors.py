"""Likely label errors of the training posts: `python -m stages.label_errors checkpoints/folds`; no stage of dvc.yaml.

Each training post is read by the taggers of `python -m stages.folds` that were trained without it. Where one is sure of
something other than the label, the post goes to report/label_errors.html, a list to look at, and to
report/label_errors.jsonl, the surest first.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ner.scoring.label_errors import doubts
from ner.tagger import Tagger
from ner.training import folds
from pipeline.core import records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import Doubt, View
from pipeline.settings import params
from reporting import doubts as page
from stages.shared import paths, visuals

OUTPUT = paths.REPORT / "label_errors"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.label_errors", description="List training labels that out-of-fold taggers contradict."
    )
    parser.add_argument("folds", type=Path, metavar="FOLDER", help="that of `python -m stages.folds`")
    parser.add_argument(
        "--confidence", type=float, default=0.8, metavar="C", help="of the tagger, at least [%(default)s]"
    )
    arguments = parser.parse_args()
    if not 0 <= arguments.confidence <= 1:
        parser.error(f"--confidence: expected 0 to 1, found {arguments.confidence}")
    settings = params.load(paths.PARAMS)
    views = list(records.read(paths.VIEWS / "train.jsonl", View, "views"))
    batch_size = settings.execution.predict_batch_size
    read: set[str] = set()
    found: list[Doubt] = []
    for folder, posts in _unseen(arguments.folds, views):
        print(f"{folder}: reads {len(posts):,} posts that it was not trained on", file=sys.stderr)
        tagger = Tagger.load(folder, settings.execution.device)
        if tagger.reads_visual:
            tagger.show(visuals.opened())
        found += doubts(tagger, posts, batch_size)
        read |= {post.id for post in posts}
    sure = [doubt for doubt in found if doubt.confidence >= arguments.confidence]
    sure.sort(key=lambda doubt: (-doubt.confidence, doubt.id, doubt.start))
    records.write(OUTPUT.with_suffix(".jsonl"), sure)
    page.write(sure, len(read), arguments.confidence, OUTPUT.with_suffix(".html"))
    left = sum(view.labels is not None and view.id not in read for view in views)
    print(
        f"{OUTPUT.with_suffix('.html')}: {len(sure):,} labels of {len(read):,} posts are contradicted with a "
        f"confidence of {arguments.confidence:g} or more"
        + (f"; {left:,} labelled posts are in no fold's part" if left else "")
    )


def _unseen(folder: Path, views: Sequence[View]) -> Iterator[tuple[Path, list[View]]]:
    """The folders of taggers, each with the labelled posts that it was not trained on.

    Raises:
        UserError: there are none.
    """
    taggers = [(each, noted) for each in sorted(folder.glob("*/")) if (noted := folds.read(each)) is not None]
    if not taggers:
        raise UserError(f"{folder}: no taggers of folds in it; make them: python -m stages.folds 5 {folder}")
    for each, (fold, _) in taggers:
        yield each, [view for view in views if view.labels is not None and fold.has(view)]


if __name__ == "__main__":
    run_cli(main)
