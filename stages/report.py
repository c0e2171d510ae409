"""Stage `report`: everything that the other stages wrote → report/index.html with its assets beside it."""

from pipeline import params
from pipeline.errors import run_cli
from pipeline.store import Store, stage_lock
from reporting import page, sources, thumbnails
from reporting.sources import Sources
from stages import paths

SOURCES = Sources(posts=paths.POSTS, images=paths.IMAGES, contexts=paths.CONTEXTS, views=paths.VIEWS,
                  predictions=paths.PREDICTIONS, evaluation=paths.EVALUATION, runs=paths.RUNS, curves=paths.CURVES,
                  confusion=paths.CONFUSION)


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    with stage_lock("report"), Store.open() as store:
        results = sources.read(settings, SOURCES)
        shown = {post.image for split in settings.report.splits for post in results.posts[split]}
        rows = [row for name, row in sorted(results.images.items()) if name in shown]
        written = thumbnails.write(rows, settings.data.images_folder, paths.REPORT / "assets" / "thumbnails",
                                   settings.report.thumbnail, settings.images, store,
                                   settings.execution.decode_workers)
        page.write(results, written, paths.REPORT)
    posts = sum(len(results.posts[split]) for split in settings.report.splits)
    print(f"{paths.REPORT / 'index.html'}: {posts:,} posts, {len(written):,} pictures")


if __name__ == "__main__":
    run_cli(main)
