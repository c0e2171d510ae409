"""The tagger's own scheme, BIOES or IOB2: to and from the IOB2 of the records, and which label may follow which.

An ``I-`` that nothing of its type precedes (an orphan) is read as conlleval reads it: it opens an entity. What the
records' own labels mean, and how scorers read orphans, is left to
:mod:`pipeline.core.labels` and :mod:`ner.scoring.f1`.
"""

from __future__ import annotations  # torch is for tensors alone: ner.light has none

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline.core.errors import UserError
from pipeline.core.labels import entities, split_label

if TYPE_CHECKING:
    from torch import Tensor

_PREFIXES = {"bioes": "BIES", "iob2": "BI"}


def to_scheme(labels: Sequence[str], scheme: str = "bioes") -> list[str]:
    """IOB2 → BIOES, or IOB2 itself; an orphan ``I-`` opens an entity, as in conlleval."""
    result = ["O"] * len(labels)
    for start, end, kind in entities(labels, "conlleval"):
        if scheme == "iob2":
            result[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
        elif end - start == 1:
            result[start] = f"S-{kind}"
        else:
            result[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 2), f"E-{kind}"]
    return result


def to_iob2(labels: Sequence[str]) -> list[str]:
    """BIOES (or IOB2) → IOB2, label by label."""
    begins = {"S": "B", "E": "I"}
    return [begins.get(label[0], label[0]) + label[1:] for label in labels]


def scheme_labels(sequences: Iterable[Sequence[str]], scheme: str = "bioes") -> list[str]:
    """The labels of a corpus in IOB2: O, then B-, I-, and of BIOES E-, S-, of each of its entity types, in order.

    Raises:
        UserError: no label names an entity.
    """
    types = sorted({split_label(label)[1] for label in {label for labels in sequences for label in labels}} - {""})
    if not types:
        raise UserError("train: no post has an entity (every label is O); expected labels such as B-PER")
    return ["O", *(f"{prefix}-{kind}" for kind in types for prefix in _PREFIXES[scheme])]


class Allowed(NamedTuple):
    """Which label may follow which, and begin and end a sequence; of n_labels labels, by their places."""

    transitions: list[list[bool]]
    """From the first place to the second."""
    start: list[bool]
    stop: list[bool]


def allowed(labels: Sequence[str]) -> Allowed:
    """Which label may follow which: in IOB2 where no label is an E- or S-, else in BIOES.

    Args:
        labels: the labels, in the order of the emissions.
    """
    parts = [split_label(label, "bioes") for label in labels]
    bioes = any(prefix in ("E", "S") for prefix, _ in parts)
    stays_open = [prefix in ("B", "I") for prefix, _ in parts]
    continues = [prefix in ("I", "E") for prefix, _ in parts]

    def follows(one: int, other: int) -> bool:
        goes_on = continues[other] and parts[one][1] == parts[other][1]
        if bioes:
            return goes_on if stays_open[one] else not continues[other]
        # an entity may end anywhere, and an I- needs one of its type before it
        return not continues[other] or (stays_open[one] and goes_on)

    places = range(len(parts))
    return Allowed(
        [[follows(one, other) for other in places] for one in places],
        [not each for each in continues],
        [not (bioes and each) for each in stays_open],
    )


def allowed_transitions(labels: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`allowed` as tensors.

    Args:
        labels: the labels, in the order of the emissions.

    Returns:
        which transitions may occur, from row to column, bool, *Shape:* (n_labels, n_labels).
        which labels may begin a sequence, bool, *Shape:* (n_labels,).
        which labels may end a sequence, bool, *Shape:* (n_labels,).
    """
    import torch

    # Real tensors even while transformers builds a model on the meta device.
    transitions, start, stop = (torch.tensor(each, dtype=torch.bool, device="cpu") for each in allowed(labels))
    return transitions, start, stop
