"""Presets: settings that go together, such as those of a published set-up, merged into params.yaml.

A preset is a partial params.yaml in presets/. Its first comment line says what it is; `extends` names another one to
start from. The file's comments, its order and whatever the preset does not name stay as they are.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from pipeline.core.errors import UserError
from pipeline.core.files import atomic_write
from pipeline.core.kinds import KINDS
from pipeline.settings import params, yaml

FOLDER = Path(__file__).resolve().parents[2] / "presets"
_MISSING = object()


def names(folder: Path = FOLDER) -> list[str]:
    """The presets there are, in order."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def summary(name: str, folder: Path = FOLDER) -> str:
    """The first comment line of a preset: what it is."""
    return (folder / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()


def read(name: str, folder: Path = FOLDER) -> CommentedMap:
    """A preset's settings, laid over those of the one that it extends.

    Raises:
        UserError: there is no such preset, it extends itself, or it is not a mapping in YAML.
    """
    waiting, chain = [name], list[str]()
    layers: list[CommentedMap] = []
    while waiting:
        current = waiting.pop()
        if current not in names(folder):
            known = ", ".join(names(folder)) or "none"
            via = f" (which {chain[-1]} extends)" if chain else ""
            raise UserError(f"preset {current!r}{via}: there is none of that name; there are: {known}")
        if current in chain:
            raise UserError(f"preset {name!r}: extends itself ({' → '.join([*chain, current])})")
        chain.append(current)
        path = folder / f"{current}.yaml"
        settings = _load(yaml.text_of(path), str(path))
        parent = settings.pop("extends", None)
        waiting += [] if parent is None else [str(parent)]
        layers.append(settings)
    merged = layers.pop()
    for layer in reversed(layers):
        list(merge(merged, layer))
    return merged


def merge(
    target: MutableMapping[str, Any], settings: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Lay `settings` over `target`, mapping by mapping; anything else, lists too, is replaced whole.

    Yields:
        (dotted key, old value or None where there was none, new value) of each change, when it has been made.
    """
    for key, value in settings.items():
        old = target.get(key, _MISSING)
        if isinstance(value, Mapping) and isinstance(old, MutableMapping):
            yield from merge(old, value, f"{prefix}{key}.")
        elif isinstance(old, bool) != isinstance(value, bool) or old != value:  # True == 1, but not in params
            before = None if old is _MISSING else _plain(old)
            if isinstance(value, list) and isinstance(old, list):
                old[:] = _plain(value)  # the comment behind a list hangs on the list
            else:
                target[key] = _plain(value)  # in the file's own style, not in the preset's
            yield f"{prefix}{key}", before, _plain(value)


def apply(name: str, path: Path, folder: Path = FOLDER) -> list[tuple[str, Any, Any]]:
    """Merge a preset into the params file at `path`, unless the result would not be valid.

    Returns:
        (dotted key, old value, new value) of each change.

    Raises:
        UserError: no such preset, or the file is missing or invalid, before or after; it is then left as it is.
    """
    settings = read(name, folder)
    params.load(path)
    document = _load(yaml.text_of(path), str(path))
    _drop_absent_extractors(settings, document)
    changes = list(merge(document, settings))
    if changes:
        text = yaml.dump(document)
        params.parse(text, f"{path} with preset {name}")
        with atomic_write(path) as file:
            file.write(text)
    return changes


def _drop_absent_extractors(settings: MutableMapping[str, Any], document: Mapping[str, Any]) -> None:
    """Leave out the options of extractors that the file has none for: a few of them would be no whole set."""
    for kind in KINDS:
        for key in [key for key, value in settings.get(kind, {}).items() if isinstance(value, Mapping)]:
            if key not in document.get(kind, {}):
                del settings[kind][key]


def _load(text: str, source: str) -> CommentedMap:
    document = yaml.editable(text, source).values
    if not isinstance(document, CommentedMap):
        raise UserError(f"{source}: expected sections of params, found {type(document).__name__}")
    return document


def _plain(value: Any) -> Any:
    """A value without what ruamel remembers of how it was written."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
