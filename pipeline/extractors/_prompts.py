"""Prompts about posts: what they name in braces, which a post then fills in. For models behind a server and in this
process alike."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.extractors.base import Wants

PLACES = ("text", "objects", "captions", "ocr")
"""What a prompt about a post may name in braces."""


def named(template: str) -> list[str]:
    """The names in braces that a prompt about a post has, each once; any, not those alone that have a meaning."""
    return list(dict.fromkeys(re.findall(r"\{(\w+)\}", template)))


def filled(template: str, values: Mapping[str, str]) -> str:
    """A prompt about a post: each ``{text}``, ``{objects}``, ``{captions}`` and ``{ocr}`` replaced, once.

    Other braces stay, and so do braces in the values. What `values` lacks is empty.
    """
    return re.sub(rf"\{{({'|'.join(PLACES)})\}}", lambda found: values.get(found[1], ""), template)


def wanted(prompt: str, pictures: int) -> Wants:
    """What a model that is asked `prompt` is shown besides a post's text, with so many pictures at most."""
    return Wants(frozenset(named(prompt)) - {"text"}, pictures)


def require_subject(prompt: str, pictures: int) -> None:
    """See that a question about a post shows anything of it.

    Raises:
        ValueError: neither text nor context nor pictures.
    """
    if not pictures and not named(prompt):
        raise ValueError(
            f"prompt: shows the same for every post; expected one of {_in_braces(PLACES)} in it, or pictures > 0"
        )


def _known(prompt: str) -> str:
    if unknown := [name for name in named(prompt) if name not in PLACES]:
        raise ValueError(f"{_in_braces(unknown)} has no meaning; expected {_in_braces(PLACES)} as the names in braces")
    return prompt


def _in_braces(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


PostPrompt = Annotated[str, Field(min_length=1), AfterValidator(_known)]
"""A prompt about a post, whose names in braces all have a meaning."""
