"""How a token is written, as features for encoders that read lower case alone and so are blind to names.

(Collobert et al., JMLR 2011, "Natural language processing (almost) from scratch", section 5.4, have capitals as a
feature beside the word; a tweet's @ and # tell as much.) What a tagger makes of them is :mod:`ner.models.base`'s.
"""

from collections.abc import Callable

FEATURES: dict[str, Callable[[str], bool]] = {
    "all_capitals": lambda token: len(token) > 1 and token.isupper(),
    "initial_capital": lambda token: token.lstrip("@#")[:1].isupper(),
    "inner_capital": lambda token: not token.isupper() and any(char.isupper() for char in token.lstrip("@#")[1:]),
    "digit": lambda token: any(char.isdigit() for char in token),
    "at": lambda token: token.startswith("@"),
    "hash": lambda token: token.startswith("#"),
}


def casing_of(token: str) -> list[float]:
    """1 for each of FEATURES that a token has, else 0."""
    return [float(has(token)) for has in FEATURES.values()]
