"""Prompts about posts: what they name in braces, which a post then fills in. For models behind a server and in this
process alike."""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Self

from pydantic import AfterValidator, Field, NonNegativeInt, model_validator

from pipeline.extractors.base import Options, Wants

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


def _known(prompt: str) -> str:
    if unknown := [name for name in named(prompt) if name not in PLACES]:
        raise ValueError(f"{_in_braces(unknown)} has no meaning; expected {_in_braces(PLACES)} as the names in braces")
    return prompt


def _in_braces(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


PostPrompt = Annotated[str, Field(min_length=1), AfterValidator(_known)]
"""A prompt about a post, whose names in braces all have a meaning."""


class PostOptions(Options):
    """What is said of every model that is asked about posts: the question, and how many pictures of a post it sees."""

    prompt: PostPrompt
    pictures: NonNegativeInt = 4

    @model_validator(mode="after")
    def _shows_something(self) -> Self:
        if not self.pictures and not named(self.prompt):
            raise ValueError(
                f"prompt: shows the same for every post; expected one of {_in_braces(PLACES)} in it, or pictures > 0"
            )
        return self

    def wants(self) -> Wants:
        """What the model is shown besides a post's text."""
        return Wants(frozenset(named(self.prompt)) - {"text"}, self.pictures)
