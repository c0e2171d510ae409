"""What the sections of params.yaml are made of, and what of a section is not its default."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

from pipeline.core.files import portable
from pipeline.core.runs import Change

Fraction = Annotated[float, Field(ge=0, le=1)]
LessThanOne = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A section of params.yaml: an unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def changed(model: BaseModel, prefix: str = "") -> Iterator[Change]:
    """The settings of a section that are not their defaults, or have none, as JSON values by dotted key.

    Those that a dump excludes are left out: they tell of a machine.
    """
    for name, field in type(model).model_fields.items():
        if field.exclude:
            continue
        value, key = getattr(model, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from changed(value, f"{key}.")
            continue
        required = field.is_required()
        default = None if required else field.get_default(call_default_factory=True)
        if required or value != default:
            yield Change(key, _shown(value), _shown(default), required)


def settings(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All settings of a section as JSON values by dotted key; left out and shortened as in :func:`changed`."""
    for name, field in type(model).model_fields.items():
        value, key = getattr(model, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from settings(value, f"{key}.")
        elif not field.exclude:
            yield key, _shown(value)


def _shown(value: Any) -> Any:
    """A setting as JSON; of a path outside the project its name alone, for it tells of a machine."""
    plain = to_jsonable_python(value)
    if isinstance(plain, list):
        return [_shown(each) for each in plain]
    return portable(plain) if isinstance(plain, str) and plain.startswith(("/", "~")) else plain
