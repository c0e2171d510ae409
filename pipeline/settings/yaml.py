"""YAML as settings are written in: values with the line of every key, and files that are edited, not rewritten.

Everything is read by ruamel.yaml, by YAML 1.2 (`5e-4` is a number, `no` is a text). A mistake is a
:class:`~pipeline.core.errors.UserError` that names file, line and key. What the keys mean is left to others.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from pipeline.core.errors import UserError
from pipeline.core.files import require_regular

MOST_NODES = 20_000
"""Keys and values that a document may have, an alias counted as everything it repeats."""


class Document(NamedTuple):
    """What a YAML file says, and where it says it."""

    values: Any
    lines: dict[str, int]
    """Dotted key → line, from 1; items of a list are numbered from 0 (``views.kinds.1``)."""


def load(path: str | Path) -> Document:
    """Read a file.

    Raises:
        UserError: the file is missing, not UTF-8 or not YAML, or a key is given twice.
    """
    return parse(text_of(path), str(path))


def parse(text: str, source: str) -> Document:
    """Read a text; `source` stands for the file in messages.

    Raises:
        UserError: as :func:`load`.
    """
    return _read(text, source, YAML(typ="safe", pure=True))


def editable(text: str, source: str) -> Document:
    """Read a text whose values keep their comments, order and style; :func:`dump` writes them.

    Raises:
        UserError: as :func:`load`.
    """
    return _read(text, source, YAML())


def dump(values: Any) -> str:
    """The text of editable values, as DVC writes it: `dvc exp run -S` then changes nothing but its key's line."""
    stream = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.dump(values, stream)
    return stream.getvalue()


def text_of(path: str | Path) -> str:
    """The text of a file.

    Raises:
        UserError: it is missing, no file or not UTF-8.
    """
    try:
        require_regular(path)
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _read(text: str, source: str, loader: YAML) -> Document:
    try:
        root = YAML(typ="safe", pure=True).compose(text)
        lines = {} if root is None else dict(_Keys().of(root))  # first: it bounds what the loader makes of aliases
        return Document(loader.load(text), lines)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{source}:{line}: not YAML: {error.problem or error.context}") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{source}:{line}: not YAML: the character U+{error.character:04X} is not allowed; remove it"
        ) from None
    except RecursionError:
        raise UserError(
            f"{source}: nested too deeply, or an alias (*name) contains itself; expected sections with their options"
        ) from None
    except (ValueError, OverflowError) as error:
        raise UserError(f"{source}: {error}") from None


class _Keys:
    """One walk over a composed document."""

    def __init__(self) -> None:
        self._nodes = 0

    def of(self, node: Node, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield (dotted key, line) for every key below a node.

        Raises:
            ValueError: a key is given twice in one mapping or is not a plain value, or there are too many nodes.
        """
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise ValueError(
                f"more than {MOST_NODES:,} keys and values, those counted that aliases (*name) repeat; "
                "expected sections with their options"
            )
        if isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                yield f"{prefix}{index}", _line(item)
                yield from self.of(item, f"{prefix}{index}.")
        if not isinstance(node, MappingNode):
            return
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, ScalarNode):
                raise ValueError(f"line {line}: a list or a mapping cannot be a key; expected a name")
            key = f"{prefix}{key_node.value}"
            if key in seen:
                raise ValueError(f"line {line}: {key}: given twice (first on line {seen[key]})")
            seen[key] = line
            yield key, line
            yield from self.of(value_node, f"{key}.")


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
