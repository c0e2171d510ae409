"""Stage `posts`: a data set's text files → data/posts/{train,dev,test,unlabelled,relation}.jsonl, and a report."""

from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.core import records
from pipeline.core.errors import run_cli
from pipeline.core.files import write_json
from pipeline.core.locks import stage_lock
from pipeline.core.records import RelationPost
from pipeline.core.scratch import Sorted
from pipeline.corpus.dataset import settled
from pipeline.corpus.relation import each_of_relation
from pipeline.corpus.report import Report, described
from pipeline.engine.posts import posts
from pipeline.settings import params
from pipeline.settings.params import POST_SPLITS, SPLITS, Params, PostSplit
from stages.shared import paths
from stages.shared.record import recorded


def main() -> None:
    """Run the stage."""
    settings = params.load(paths.PARAMS)
    with stage_lock("posts"), recorded("posts") as record:
        odd: dict[PostSplit, Counter[str]] = {split: Counter() for split in POST_SPLITS}
        found = Report()
        splits = {split: _lines(settings, split, odd[split], found) for split in POST_SPLITS}
        adds = Counter[bool]()
        relation = Sorted((post.id, records.line(post)) for post in _counted(each_of_relation(settings.data), adds))
        for split, lines in splits.items():  # once all is read: what is refused leaves the files as they were
            records.write_lines(paths.POSTS / f"{split}.jsonl", lines)
        records.write_lines(paths.RELATION, relation)
        report = found.found(odd)
        write_json(paths.POSTS_REPORT, report)
        record |= {"items": sum(counts["posts"] for counts in report["splits"].values()), "unit": "posts"}
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
    if (counts := report["splits"]["unlabelled"])["posts"]:
        print(
            ", ".join(
                [f"unlabelled: {counts['posts']:,} posts, {counts['tokens']:,} tokens", *described(counts["odd"])]
            )
        )
    for name in ("label", "text"):
        digests = {split: report["splits"][split][f"{name}_digest"] or "none" for split in SPLITS}
        print(f"{name} digests: " + ", ".join(f"{split} {digest}" for split, digest in digests.items()))
    if adds:
        print(f"relation: {adds.total():,} posts, {adds[True]:,} whose picture adds")


def _lines(settings: Params, split: PostSplit, odd: Counter[str], found: Report) -> Sorted:
    """The lines of the posts of a split, by their ids; what is found in them is counted."""
    given = posts(settings.data, split, odd, found.counts(split), settings.execution.cluster)
    return Sorted((post.id, post.line) for post in found.noted(split, settled(given, split, odd)))


def _counted(given: Iterable[RelationPost], adds: "Counter[bool]") -> Iterator[RelationPost]:
    for post in given:
        adds[bool(post.relation)] += 1
        yield post


if __name__ == "__main__":
    run_cli(main, __doc__)
