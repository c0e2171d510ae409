"""Label schemes: IOB2 as data comes, BIOES as the tagger thinks, and the spans that both describe.

An ``I-`` that nothing of its type precedes (an orphan) is read as conlleval reads it: it opens an entity. Scorers that
read it otherwise (strict IOB2) say so themselves, in :mod:`ner.scoring`.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import UserError


class Span(NamedTuple):
    """An entity: its first token, the token after its last, its type."""

    start: int
    end: int
    type: str


def split_label(label: str) -> tuple[str, str]:
    """``"B-PER"`` → ``("B", "PER")``, ``"O"`` → ``("O", "")``.

    Raises:
        UserError: the label is neither O nor a prefix of BIOES, a hyphen and a type.
    """
    if label == "O":
        return "O", ""
    prefix, hyphen, kind = label.partition("-")
    if not hyphen or not kind or prefix not in ("B", "I", "E", "S"):
        raise UserError(f"label {label!r}: expected O, B-TYPE or I-TYPE (in BIOES also E-TYPE, S-TYPE)")
    return prefix, kind


def spans(labels: Sequence[str], *, orphans: bool = True) -> list[Span]:
    """The entities of a sequence in IOB2 or BIOES, in order.

    Args:
        labels: one label a token.
        orphans: whether an ``I-`` or ``E-`` with no entity of its type open starts one (conlleval's reading) or is
            read as outside (strict IOB2), as are the ``I-`` that follow it.

    Raises:
        UserError: something is no label.
    """
    found: list[Span] = []
    start, kind = -1, ""  # start < 0: no entity is open
    for position, label in enumerate(labels):
        prefix, label_kind = split_label(label)
        continues = prefix in "IE" and start >= 0 and kind == label_kind
        if start >= 0 and not continues:
            found.append(Span(start, position, kind))
            start = -1
        if prefix in "BS" or (prefix in "IE" and not continues and orphans):
            start, kind = position, label_kind
        if prefix in "ES" and start >= 0:
            found.append(Span(start, position + 1, kind))
            start = -1
    if start >= 0:
        found.append(Span(start, len(labels), kind))
    return found


def to_bioes(labels: Sequence[str]) -> list[str]:
    """IOB2 → BIOES; an orphan ``I-`` opens an entity, as in conlleval."""
    result = ["O"] * len(labels)
    for start, end, kind in spans(labels):
        if end - start == 1:
            result[start] = f"S-{kind}"
        else:
            result[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 2), f"E-{kind}"]
    return result


def to_iob2(labels: Sequence[str]) -> list[str]:
    """BIOES (or IOB2 with orphans) → IOB2 without orphans."""
    result = ["O"] * len(labels)
    for start, end, kind in spans(labels):
        result[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return result


def bioes_labels(sequences: Iterable[Sequence[str]]) -> list[str]:
    """The BIOES label set of a corpus: O, then B-, I-, E-, S- of every entity type in it, types in order.

    Raises:
        UserError: a label is no label, or there is no entity at all.
    """
    types = sorted({split_label(label)[1] for labels in sequences for label in labels} - {""})
    if not types:
        raise UserError("train: no post has an entity (every label is O); expected labels like B-PER")
    return ["O", *(f"{prefix}-{kind}" for kind in types for prefix in "BIES")]


def allowed_transitions(labels: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """What may follow what in BIOES.

    Returns:
        bool tensors [K, K] (from row to column), [K] (may begin a sequence), [K] (may end one).
    """
    parts = [split_label(label) for label in labels]
    inside = torch.tensor([prefix in "BI" for prefix, _ in parts])  # an entity stays open behind this label
    goes_on = torch.tensor([prefix in "IE" for prefix, _ in parts])  # and was open before this one
    same_type = torch.tensor([[a == b for _, b in parts] for _, a in parts])
    transitions = torch.where(inside[:, None], goes_on[None, :] & same_type, ~goes_on[None, :])
    return transitions, ~goes_on, ~inside
