"""Stage `posts`: a data set's text files → data/posts/{train,dev,test,unlabelled,relation}.jsonl, and a report."""

from collections import Counter

from pipeline.core import records
from pipeline.core.errors import run_cli
from pipeline.core.files import write_json
from pipeline.core.locks import stage_lock
from pipeline.core.records import Post
from pipeline.corpus.dataset import read_split
from pipeline.corpus.relation import read_relation
from pipeline.corpus.report import described
from pipeline.corpus.report import report as report_on
from pipeline.corpus.unlabelled import read_unlabelled
from pipeline.settings import params
from pipeline.settings.params import POST_SPLITS, SPLITS, PostSplit
from stages.shared import paths
from stages.shared.record import recorded


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    with stage_lock("posts"), recorded("posts") as record:
        odd: dict[PostSplit, Counter[str]] = {split: Counter() for split in POST_SPLITS}
        splits: dict[PostSplit, list[Post]] = {split: read_split(settings.data, split, odd[split]) for split in SPLITS}
        splits["unlabelled"] = read_unlabelled(settings.data, odd["unlabelled"])
        for split, rows in splits.items():
            records.write(paths.POSTS / f"{split}.jsonl", sorted(rows, key=lambda post: post.id))
        relation = read_relation(settings.data)
        records.write(paths.RELATION, sorted(relation, key=lambda post: post.id))
        report = report_on(splits, odd)
        write_json(paths.POSTS_REPORT, report)
        record |= {"items": sum(map(len, splits.values())), "unit": "posts"}
    for split, counts in report["splits"].items():
        if split == "unlabelled":
            continue
        entities = counts["entities"]
        labelled = "" if counts["labelled"] == counts["posts"] else f" ({counts['labelled']:,} labelled)"
        print(
            f"{split}: {counts['posts']:,} posts{labelled}, {counts['tokens']:,} tokens, "
            f"{entities['conlleval']['total']:,} entities ({entities['strict']['total']:,} read strictly), "
            + ", ".join([f"{counts['orphan_i']:,} orphan I-", *described(counts["odd"])])
        )
    if splits["unlabelled"]:
        counts = report["splits"]["unlabelled"]
        print(
            ", ".join(
                [f"unlabelled: {counts['posts']:,} posts, {counts['tokens']:,} tokens", *described(counts["odd"])]
            )
        )
    for name in ("label", "text"):
        digests = {split: report["splits"][split][f"{name}_digest"] or "none" for split in SPLITS}
        print(f"{name} digests: " + ", ".join(f"{split} {digest}" for split, digest in digests.items()))
    if relation:
        print(f"relation: {len(relation):,} posts, {sum(post.relation for post in relation):,} whose picture adds")


if __name__ == "__main__":
    run_cli(main, __doc__)
