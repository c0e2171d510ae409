"""What pydantic finds wrong with settings, as lines for people: file, line, key, what was found, what was expected."""

import re
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

_SECRET = re.compile(r"://[^/\s]*@")
"""User and password of a URL, which no message repeats."""


def describe(
    error: ValidationError, model: type[BaseModel], source: str, lines: dict[str, int], prefix: str = ""
) -> Iterator[str]:
    """One line for each mistake that pydantic found: where, what was found, what was expected.

    Args:
        error: what pydantic raised.
        model: the model it was raised for, to name the keys that are allowed.
        source: the file, to stand in front.
        lines: dotted key → line in that file.
        prefix: dotted key of the part that was validated, with a dot behind; empty for the whole file.
    """
    for mistake in error.errors(include_url=False):
        parents, key = [str(part) for part in mistake["loc"][:-1]], ".".join(str(part) for part in mistake["loc"])
        full = (prefix + key).rstrip(".")
        message = mistake["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        named, _, rest = message.partition(": ")
        if (inner := f"{full}.{named}".lstrip(".")) in lines:  # what a section says of one of its keys
            full, message = inner, rest
        line = next((lines[known] for known in _ancestors(full) if known in lines), None)
        where = ": ".join(filter(None, [f"{source}:{line}" if line else source, full]))
        if mistake["type"] == "extra_forbidden":
            fields = _fields(model, parents)
            yield f"{where}: unknown key; expected one of {', '.join(fields)}"
        elif mistake["type"] == "missing":
            yield f"{where}: missing"
        else:
            given = mistake["input"]
            found = "" if isinstance(given, dict) else f"found {_SECRET.sub('://…@', repr(given))}, "
            yield f"{where}: {found}{message}"


def _ancestors(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.rpartition(".")[0]


def _fields(model: type[BaseModel], parents: list[str]) -> list[str]:
    """The keys allowed below `parents`, following nested sections."""
    for name in parents:
        inner = model.model_fields[name].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)
