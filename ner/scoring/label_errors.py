"""Labels that a tagger which has not seen them contradicts, the surest contradiction first: where to look for mistakes.

What such a tagger says surely against gold is right more often than the label is worth leaving unread (Northcutt, Jiang
and Chuang, JAIR 2021, "Confident learning"); nothing is corrected here, as only people can tell.
"""

from collections.abc import Iterator, Sequence

from ner.scoring.error_analysis import mistakes
from ner.tagger import Tagger
from pipeline.core.records import Doubt, Labelled, View


def doubts(tagger: Tagger, views: Sequence[View], batch_size: int = 32) -> Iterator[Doubt]:
    """Where labels and tagger disagree, and how sure the tagger is of its own labels there.

    Args:
        tagger: that was not trained on these posts.
        views: labelled posts; any without labels are left out.
        batch_size: encoder windows at once.
    """
    labelled = [view for view in views if view.labels is not None]
    found = [
        mistakes(view.labels or [], prediction.predicted)
        for view, prediction in zip(labelled, tagger.predict(labelled, batch_size, adapt=False), strict=True)
    ]
    doubtful = [place for place, each in enumerate(found) if each]
    ranges = [[(mistake.start, mistake.end) for mistake in found[place]] for place in doubtful]
    sure = tagger.probabilities([labelled[place] for place in doubtful], ranges, batch_size)
    for place, confidences in zip(doubtful, sure, strict=True):
        view = labelled[place]
        for mistake, confidence in zip(found[place], confidences, strict=True):
            yield Doubt(
                view.id,
                view.tokens,
                mistake.start,
                mistake.end,
                None if mistake.gold is None else Labelled(*mistake.gold),
                None if mistake.predicted is None else Labelled(*mistake.predicted),
                mistake.kind,
                min(confidence, 1.0),
            )
