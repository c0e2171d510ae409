"""docs/params.md, the reference of every knob.

It is made of the typed params, the options of the extractors and the comments of params.yaml, so that it
says nothing else than they do.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.core.kinds import KINDS
from pipeline.settings import params

_TITLE = """# Params

Every knob of [`params.yaml`](../params.yaml), made by `python -m pipeline.params reference` from the types that check
it and from its comments. *Default*: the value of a key that is left out; *required*: it may not be. *Ships as*: the
value in params.yaml, where it differs. `python -m pipeline.params check` says what is wrong with a file of
yours, with its lines.
"""


def reference(path: Path, options: Mapping[str, Mapping[str, type[BaseModel]]]) -> str:
    """The page, in Markdown.

    Args:
        path: the params file whose values and comments are shown.
        options: kind → extractor → its typed options.

    Raises:
        UserError: it is missing or not valid.
    """
    settings = params.load(path)
    values = settings.model_dump(mode="json")
    comments = _comments(path.read_text(encoding="utf-8"), params.key_lines(path))
    parts = [_TITLE]
    for section in dict.fromkeys(key.partition(".")[0] for key in params.key_lines(path)):
        model = type(getattr(settings, section))
        parts.append(f"## {section}\n\n{model.__doc__}\n")
        parts.append(_table(model, f"{section}.", values[section], comments))
        for kind in KINDS:
            if kind == section:
                for name, model in options[kind].items():
                    parts.append(f"### {kind}.{name}\n")
                    parts.append(_table(model, f"{kind}.{name}.", values[kind].get(name, {}), comments))
    return "\n".join(parts)


def _comments(text: str, lines: Mapping[str, int]) -> dict[str, str]:
    """Dotted key → the comment behind it; of several keys in a line, the first has it."""
    source, seen, found = text.splitlines(), set[int](), {}
    for key, line in lines.items():
        comment = re.search(r"\s#\s+(.*)$", source[line - 1])
        if comment and line not in seen:
            found[key] = comment[1]
        seen.add(line)
    return found


def _table(model: type[BaseModel], prefix: str, values: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    schema = model.model_json_schema()
    rows = [
        ["key", "allowed", "default", "ships as", "meaning"],
        ["---"] * 5,
        *_rows(schema, schema.get("$defs", {}), prefix, values, comments),
    ]
    return "".join("| " + " | ".join(map(_cell, row)) + " |\n" for row in rows)


def _cell(text: str) -> str:
    text = text.replace("|", "\\|")
    return text if text.startswith("`") else re.sub(r"<(?=\w)", r"\\<", text)  # no tag of HTML


def _rows(
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any],
    prefix: str,
    values: Mapping[str, Any],
    comments: Mapping[str, str],
) -> Iterator[list[str]]:
    for name, field in schema["properties"].items():
        key, comment = f"{prefix}{name}", comments.get(f"{prefix}{name}", "")
        inner = definitions.get(str(field.get("$ref", "")).removeprefix("#/$defs/"))
        if inner is not None:
            if comment:
                yield [f"`{key}`", "", "", "", comment]
            yield from _rows(inner, definitions, f"{key}.", values.get(name, {}), comments)
            continue
        required = name in schema.get("required", ())
        default = None if required else field.get("default")
        ships = name in values and (required or values[name] != default)
        yield [
            f"`{key}`",
            _allowed(field, definitions),
            "required" if required else _code(default),
            _code(values[name]) if ships else "",
            comment,
        ]


def _code(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _allowed(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "$ref" in field:
        return _allowed(definitions[field["$ref"].removeprefix("#/$defs/")], definitions)
    if "anyOf" in field:
        return " or ".join(_allowed(choice, definitions) for choice in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(_code(value) for value in field.get("enum", [field.get("const")]))
    kind = field.get("type")
    if kind == "array":
        several = "one or more of" if field.get("minItems") else "list of"
        return f"{several}: {_allowed(field['items'], definitions)}"
    if kind == "object":
        return "mapping of texts to " + ("texts" if field["additionalProperties"].get("type") == "string" else "values")
    names = {"string": "text", "integer": "integer", "number": "number", "boolean": "`true`, `false`", "null": "`null`"}
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {field[name]:.12g}" for name, sign in signs.items() if name in field]
    if "pattern" in field:
        bounds.append(f"of the form `{field['pattern']}`")
    return " ".join([names[str(kind)], ", ".join(bounds)]).strip()
