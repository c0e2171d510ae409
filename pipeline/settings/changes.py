"""A run's params with a few settings changed by dotted key, as a grid's rows and command lines name them."""

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.errors import UserError
from pipeline.settings import params, yaml
from pipeline.settings.params import Params


def changed(document: yaml.Document, changes: Mapping[str, Any], source: str, lines: Mapping[str, int]) -> Params:
    """Params with other values for some of the keys that they have.

    Args:
        document: params.yaml, which is left as it is.
        changes: dotted key → value.
        source: where the changes stand, for messages.
        lines: dotted key → line there, as far as there are lines.

    Raises:
        UserError: params.yaml has no such key, or the result is not valid; with a line for every mistake.
    """
    values = copy.deepcopy(document.values)
    unknown = []
    for key, value in changes.items():
        *parents, last = key.split(".")
        section: Any = values
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if isinstance(section, dict) and last in section:
            section[last] = value
            continue
        near = difflib.get_close_matches(key, document.lines, 1)
        where = f"{source}:{lines[key]}" if key in lines else source
        hint = f"; is {near[0]} meant?" if near else ""
        unknown.append(f"{where}: {key}: params.yaml has no such key, and only what is there can be changed{hint}")
    if unknown:
        raise UserError("\n".join(unknown))
    return params.validated(yaml.Document(values, dict(lines)), source)


def parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """Changes that a command line gives as KEY=VALUE, the value in YAML.

    Raises:
        UserError: there is no = in one of them, its value is not YAML, or a key is given twice.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise UserError(f"{argument}: expected KEY=VALUE, such as train.views=cross_modal")
        if key in found:
            raise UserError(f"{argument}: {key} is given twice")
        found[key] = yaml.parse(text, argument).values
    return found
