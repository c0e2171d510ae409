"""Label schemes of NER: what a label may look like, how schemes convert, which entities a label sequence holds.

Inside Sightread labels are IOB2 (`O`, `B-TYPE`, `I-TYPE`). Taggers use other schemes internally (ner/bioes.py).
"""

import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple

Scheme = Literal["iob2", "iob1", "bioes"]
Reading = Literal["conlleval", "strict"]

_PREFIXES = {"iob2": "BI", "iob1": "BI", "bioes": "BIESLUM"}  # L, U, M: the same scheme's other letters (BILOU, BMES)


class Entity(NamedTuple):
    """Tokens `start` up to, not including, `end` name something of type `type`."""

    start: int
    end: int
    type: str


def split_label(label: str, scheme: Scheme = "iob2") -> tuple[str, str]:
    """Split a label into prefix and type; `O` gives ``("O", "")``.

    Raises:
        ValueError: the label is none of the scheme's.
    """
    if label == "O":
        return "O", ""
    if label != label.strip():
        raise ValueError(f"{label!r}: white space around the label; remove it")
    prefix, dash, entity_type = label.partition("-")
    if not dash or not entity_type or len(prefix) != 1 or prefix not in _PREFIXES[scheme]:
        raise ValueError(
            f"{label!r} is no {scheme.upper()} label: expected O or a letter of "
            f"{'/'.join(_PREFIXES[scheme][:4])}, a dash and a type, as in B-PER"
        )
    return prefix, entity_type


def check_type(name: str) -> None:
    """Hold the name of an entity type to letters of any script, digits, ``-``, ``_`` and ``.``: pages show it.

    Raises:
        ValueError: it has another character, which is named, or is called O, as what is no entity is.
    """
    if name == "O":
        raise ValueError("no type may be called O, which means no entity")
    for character in name:
        if character not in "-_." and unicodedata.category(character)[0] not in "LMN":
            raise ValueError(
                f"the type {name!r:.80} has {character!r} (U+{ord(character):04X}) in it; expected letters, digits, "
                "-, _ and ."
            )


def to_iob2(labels: Sequence[str], scheme: Scheme) -> list[str]:
    """Convert one sequence to IOB2. An orphan `I-` of IOB2 input stays as it is: how to read it is the scorer's choice.

    Raises:
        ValueError: a label is none of the scheme's.
    """
    parts = [split_label(label, scheme) for label in labels]
    if scheme == "iob2":
        return list(labels)
    converted, previous = [], ("O", "")
    for prefix, entity_type in parts:
        if prefix == "O":
            converted.append("O")
        else:
            begins = prefix in "BSU" or previous[1] != entity_type or (scheme == "bioes" and previous[0] in "ESLU")
            converted.append(f"{'B' if begins else 'I'}-{entity_type}")
        previous = (prefix, entity_type)
    return converted


def entities(labels: Sequence[str], reading: Reading) -> list[Entity]:
    """The entities of an IOB2 sequence.

    Args:
        labels: IOB2 labels, one a token.
        reading: what an orphan `I-` (one that no `B-` or `I-` of its type precedes) means. `conlleval` opens an
            entity there, as the CoNLL-2000/2002 script does; `strict` takes it for no entity at all.
    """
    found: list[Entity] = []
    start, open_type = 0, ""
    for position, label in enumerate([*labels, "O"]):
        prefix, _, entity_type = label.partition("-")
        if prefix == "I" and entity_type == open_type:
            continue
        if open_type:
            found.append(Entity(start, position, open_type))
            open_type = ""
        if prefix == "B" or (prefix == "I" and reading == "conlleval"):
            start, open_type = position, entity_type
    return found


def orphans(labels: Sequence[str]) -> int:
    """How many `I-` no `B-` or `I-` of the same type precedes."""
    return sum(
        label.startswith("I-") and (previous == "O" or previous[2:] != label[2:])
        for previous, label in zip(["O", *labels], labels, strict=False)
    )
