"""Names that training has and names that it has not: scores of entities whose surface form was to be learned by heart.

An entity is seen if a training post has the same words, as they are written, as an entity of the same type; a tweet may
still mean another by them. (Augenstein, Derczynski and Bontcheva 2017, "Generalisation in named entity recognition: a
quantitative analysis", Computer Speech & Language 44, section 3.4.)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ner.scoring import f1
from ner.scoring.f1 import CONFIDENCE, SEED
from pipeline.core.labels import Entity, Reading, entities
from pipeline.core.names import composed
from pipeline.core.records import Post, Scores, View

SEEN, UNSEEN = "seen", "unseen"
"""What the rows are called, beside those of types."""

Form = tuple[str, str]
"""An entity's words in Unicode's form NFC, and its type."""


@dataclass(frozen=True, slots=True)
class Known:
    """The surface forms of a training's entities, by how an orphan ``I-`` is read."""

    forms: dict[Reading, frozenset[Form]]

    @classmethod
    def of(cls, posts: Iterable[Post | View]) -> "Known":
        """Those of posts; of posts without labels, none."""
        labelled = [(post.tokens, post.labels) for post in posts if post.labels is not None]
        return cls(
            {
                reading: frozenset(
                    _form(tokens, entity) for tokens, labels in labelled for entity in entities(labels, reading)
                )
                for reading in f1.READINGS
            }
        )

    def __bool__(self) -> bool:
        """Whether there are any; without, nothing is told apart."""
        return any(self.forms.values())


def _form(tokens: Sequence[str], entity: Entity) -> Form:
    return composed(" ".join(tokens[entity.start : entity.end])), entity.type


def score(
    tokens: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    known: Known | None,
    *,
    bootstrap_samples: int = 0,
    confidence: float = CONFIDENCE,
    seed: int = SEED,
) -> Scores:
    """Scores as of :func:`ner.scoring.f1.score`, with rows for seen and for unseen entities where any are known.

    Their precision is that of predicted entities which are seen or not, their recall that of gold ones.

    Args:
        tokens: of each post.
        gold, predicted: IOB2 labels of each post.
        known: surface forms of training.
        bootstrap_samples, confidence, seed: as of the other.

    Returns:
        ``{"conlleval" | "strict": {"micro" | type | "seen" | "unseen": {"precision", "recall", "f1", "support",
        "f1_ci"}}}``
    """
    scores = f1.score(gold, predicted, bootstrap_samples=bootstrap_samples, confidence=confidence, seed=seed)
    if not known:
        return scores
    return {
        reading: {
            **scores[reading],
            **f1.rows(
                [SEEN, UNSEEN],
                _counts(tokens, gold, predicted, known.forms[reading], reading),
                bootstrap_samples,
                confidence,
                seed,
            ),
        }
        for reading in f1.READINGS
    }


def _counts(
    tokens: Sequence[Sequence[str]],
    gold: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]],
    forms: frozenset[Form],
    reading: Reading,
) -> NDArray[np.int64]:
    """Numbers of right, predicted and gold entities, seen and unseen, *Shape:* (n_posts, 2, 3)."""
    counts = np.zeros((len(gold), 2, 3), dtype=np.int64)
    for post, (words, one, other) in enumerate(zip(tokens, gold, predicted, strict=True)):
        wanted, found = set(entities(one, reading)), set(entities(other, reading))
        for kind, some in enumerate((wanted & found, found, wanted)):
            for entity in some:
                counts[post, int(_form(words, entity) not in forms), kind] += 1
    return counts
