"""What kind of mistake each wrong or missing entity is: missed, spurious, of wrong borders, of a wrong type, or both.

F1 counts a wrong border twice, as a missed and as a spurious entity; here a mistake is one thing. Entities are read as
conlleval does. Scores are left to :mod:`ner.scoring.f1`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from ner.scoring.f1 import MICRO
from pipeline.core.labels import Entity, entities
from pipeline.core.records import ErrorCounts

Kind = Literal["missed", "spurious", "borders", "type", "borders and type"]
KINDS: tuple[Kind, ...] = ("missed", "spurious", "borders", "type", "borders and type")
GLOSSES: dict[Kind, str] = {
    "missed": "a gold entity that nothing predicted overlaps",
    "spurious": "a predicted entity that no gold one overlaps",
    "borders": "the type is right, a border is not",
    "type": "both borders are right, the type is not",
    "borders and type": "they overlap, and that is all",
}


class Mistake(NamedTuple):
    """One mistake; `gold` is None where it is spurious, `predicted` where the entity was missed."""

    kind: Kind
    gold: Entity | None
    predicted: Entity | None

    @property
    def start(self) -> int:
        """First token of either."""
        return min(entity.start for entity in (self.gold, self.predicted) if entity is not None)

    @property
    def end(self) -> int:
        """The token behind the last of either."""
        return max(entity.end for entity in (self.gold, self.predicted) if entity is not None)


def mistakes(gold: Sequence[str], predicted: Sequence[str]) -> list[Mistake]:
    """The mistakes of a post, in the order of its tokens.

    What is equal is right. Of the others, a gold and a predicted entity that overlap are one mistake, those with the
    most tokens in common first, and of these those of the same type; each entity is in one mistake at most.

    Args:
        gold, predicted: IOB2 labels, one a token.
    """
    wanted, found = entities(gold, "conlleval"), entities(predicted, "conlleval")
    right = set(wanted) & set(found)
    wanted, found = ([entity for entity in side if entity not in right] for side in (wanted, found))
    pairs = sorted(
        ((one, other) for one in wanted for other in found if _overlap(one, other) > 0),
        key=lambda pair: (-_overlap(*pair), pair[0].type != pair[1].type, pair),
    )
    left, free, result = set(wanted), set(found), list[Mistake]()
    for one, other in pairs:
        if one in left and other in free:
            left.remove(one)
            free.remove(other)
            result.append(Mistake(_kind(one, other), one, other))
    result += [Mistake("missed", entity, None) for entity in left]
    result += [Mistake("spurious", None, entity) for entity in free]
    return sorted(result, key=lambda mistake: (mistake.start, mistake.end))


def count_errors(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> ErrorCounts:
    """How often each kind of mistake was made, by type, in (gold, predicted) labels of posts.

    Returns:
        ``{"micro" | type: {"right" | kind of mistake: number}}``; a mistake is the gold entity's type's, a spurious one
        the predicted entity's.
    """
    counts: dict[str, Counter[str]] = {}

    def add(entity: Entity, what: str) -> None:
        for name in (MICRO, entity.type):
            counts.setdefault(name, Counter())[what] += 1

    for gold, predicted in pairs:
        for entity in set(entities(gold, "conlleval")) & set(entities(predicted, "conlleval")):
            add(entity, "right")
        for mistake in mistakes(gold, predicted):
            sides = [side for side in (mistake.gold, mistake.predicted) if side is not None]
            add(sides[0], mistake.kind)
    return {
        name: {what: counts[name][what] for what in ("right", *KINDS)}
        for name in sorted(counts, key=lambda name: (name != MICRO, name))
    }


def _kind(gold: Entity, predicted: Entity) -> Kind:
    if gold.type == predicted.type:
        return "borders"
    return "type" if gold[:2] == predicted[:2] else "borders and type"


def _overlap(one: Entity, other: Entity) -> int:
    return min(one.end, other.end) - max(one.start, other.start)
