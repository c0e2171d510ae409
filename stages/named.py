"""What contexts name, against the labels: `python -m stages.named` prints how right `train.context_target.spans` is.

It reads the views that `dvc repro views` has made, and is no stage of dvc.yaml. The words of brackets that mean no type
are listed as well: those that name entities belong into `train.context_target.spans.types`, as dev decides.
"""

import argparse
from collections import Counter

from ner.scoring.f1 import score
from ner.training.named import NamedSpans, labels_of
from pipeline.core import records
from pipeline.core.errors import run_cli
from pipeline.core.records import View
from pipeline.settings import params
from pipeline.settings.params import POST_SPLITS
from pipeline.settings.training import ContextSpansParams
from stages.shared import paths

_MOST = 20  # words that are listed


def main() -> None:
    """Run the command."""
    argparse.ArgumentParser(prog="python -m stages.named", description=__doc__).parse_args()
    options = params.load(paths.PARAMS).train.context_target.spans
    for split in POST_SPLITS:
        if posts := list(records.read(paths.VIEWS / f"{split}.jsonl", View, "views")):
            print("\n".join(found(split, posts, options)))


def found(split: str, posts: list[View], options: ContextSpansParams) -> list[str]:
    """What the contexts of a split name, in lines: how much, how right it is where there are labels, the other words.

    Precision and recall are conlleval's, of spans with a type.
    """
    find = NamedSpans(options)
    spans = [find.of(post.tokens, post.context) for post in posts]
    every = [span for some in spans for span in some or []]
    lines = [
        f"{split}: {sum(some is not None for some in spans):,} of {len(posts):,} posts have a context that names "
        f"something; {len(every):,} spans of them, {sum(span.type not in (None, 'O') for span in every):,} with a type"
    ]
    labelled = [(post, some) for post, some in zip(posts, spans, strict=True) if post.labels is not None]
    if labelled and every:
        gold = [post.labels or [] for post, _ in labelled]
        scores = score(gold, [labels_of(some or [], len(post.tokens)) for post, some in labelled])["conlleval"]
        lines += [
            f"  {name}: precision {100 * row['precision']:.1f}, recall {100 * row['recall']:.1f}, F1 "
            f"{100 * row['f1']:.1f} ({row['support']:,} entities)"
            for name, row in scores.items()
        ]
    others = Counter(span.words.casefold() for span in every if span.type is None)
    if others:
        lines.append("  of no type: " + ", ".join(f"{words} ({n:,})" for words, n in others.most_common(_MOST)))
    return lines


if __name__ == "__main__":
    run_cli(main)
