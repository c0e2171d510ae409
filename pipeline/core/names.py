"""Ids and file names that look the same and are written in different Unicode forms, é as one character or as two.

macOS and some tools write the letter and its mark apart (NFD), most others as one character (NFC). Names are compared
in NFC, and stay as they were written. And what is no text at all: names that are not UTF-8.
"""

import unicodedata

FORMS = "in Unicode form alone (NFC, NFD)"
"""How two such names differ, for messages."""


def composed(name: str) -> str:
    """A name in the form in which names are compared, NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def other_forms(name: str) -> list[str]:
    """A name in those of the two forms that are not its own."""
    return [form for form in (composed(name), unicodedata.normalize("NFD", name)) if form != name]


def has_unpaired_surrogate(text: str) -> bool:
    """Whether a text cannot be written as UTF-8; so Python shows the bytes of a file's name that are not UTF-8."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)
