"""Stage `report`: everything that the other stages wrote → report/index.html with its assets, report/model_card.md.

Run by itself it shows what there is: before a training, posts with their pictures and contexts, and no card.
With ``--figure FILE.svg`` it draws one picture of the finished run instead.
"""

import argparse
from pathlib import Path

from ner.interop import model_card
from ner.training import facts
from pipeline.core import records
from pipeline.core.errors import run_cli
from pipeline.core.files import atomic_write
from pipeline.core.locks import stage_lock
from pipeline.core.records import Evaluation
from pipeline.core.store import Store
from pipeline.images.remote import opened
from pipeline.settings import params
from pipeline.settings.params import Params
from reporting import figure, page, sources, thumbnails
from reporting.sources import Sources
from stages.shared import paths

SOURCES = Sources(
    posts=paths.POSTS,
    images=paths.IMAGES,
    contexts=paths.CONTEXTS,
    views=paths.VIEWS,
    predictions=paths.PREDICTIONS,
    evaluation=paths.EVALUATION,
    analysis=paths.ANALYSIS,
    runs=paths.RUNS,
    curves=paths.CURVES,
    confusion=paths.CONFUSION,
)


def main() -> None:
    """Run the stage."""
    parser = argparse.ArgumentParser(prog="python -m stages.report", description="Write report/index.html of a run.")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE.svg", help="draw a post that its picture decides, and F1 by type, instead"
    )
    parser.add_argument("--post", metavar="ID", help="the test post that --figure shows [the surest of them]")
    arguments = parser.parse_args()
    settings = params.load(paths.PARAMS)
    if arguments.figure is not None:
        drawn = figure.draw(sources.read(settings, SOURCES), arguments.post)
        with atomic_write(arguments.figure) as file:
            file.write(drawn)
    else:
        _write(settings)


def _write(settings: Params) -> None:
    with stage_lock("report"), Store.open() as store:
        results = sources.read(settings, SOURCES)
        shown = {image for split in settings.report.splits for post in results.posts[split] for image in post.images}
        rows = [row for name, row in sorted(results.images.items()) if name in shown]
        written = thumbnails.write(
            rows,
            opened(settings.data, settings.images, store),
            paths.REPORT / "assets" / "thumbnails",
            settings.report.thumbnail,
            settings.images,
            store,
            settings.execution.decode_workers,
        )
        page.write(results, written, paths.REPORT)
        if paths.EVALUATION.exists() and (paths.TAGGER / facts.FILE).exists():
            evaluation: Evaluation = records.read_one(paths.EVALUATION, Evaluation, "evaluate")
            with atomic_write(paths.MODEL_CARD) as file:
                evaluated = results.runs["evaluate"].evaluated if "evaluate" in results.runs else None
                file.write(model_card.render(facts.read(paths.TAGGER), evaluation, evaluated=evaluated))
        else:  # as the page says
            paths.MODEL_CARD.unlink(missing_ok=True)
    posts = sum(len(results.posts[split]) for split in settings.report.splits)
    print(f"{paths.REPORT / 'index.html'}: {posts:,} posts, {len(written):,} pictures")


if __name__ == "__main__":
    run_cli(main)
