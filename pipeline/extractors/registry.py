"""Finding the extractor that params name, and typing its options.

What an extractor is stands in :mod:`pipeline.extractors.base`.
"""

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.core import environments
from pipeline.core.errors import UserError
from pipeline.core.records import Change
from pipeline.extractors.base import Extractor, LookupExtractor, Options
from pipeline.settings import params
from pipeline.settings.params import ExecutionParams

REGISTRY: dict[str, dict[str, str]] = {
    "objects": {
        "transformers": "pipeline.extractors.transformers_objects:TransformersObjects",
        "zero_shot": "pipeline.extractors.zero_shot:ZeroShot",
        "yolox": "pipeline.extractors.yolox:Yolox",
        "detectron2": "pipeline.extractors.detectron2:Detectron2",
        "precomputed": "pipeline.extractors.precomputed:PrecomputedObjects",
    },
    "captions": {
        "blip": "pipeline.extractors.blip:Blip",
        "lavis": "pipeline.extractors.lavis:Lavis",
        "precomputed": "pipeline.extractors.precomputed:PrecomputedCaptions",
    },
    "ocr": {
        "rapidocr": "pipeline.extractors.rapidocr:RapidOcr",
        "tesseract": "pipeline.extractors.tesseract:Tesseract",
        "easyocr": "pipeline.extractors.easyocr:EasyOcr",
        "precomputed": "pipeline.extractors.precomputed:PrecomputedOcr",
    },
}
"""The extractors that ship: kind → name in params.yaml → where the class stands."""

ATTRIBUTES = "attributes"
"""The key in ``objects`` below which stand the options of what adds attributes to any detector's tags."""


def validate(
    kind: str, section: Mapping[str, Any], source: str = "params.yaml", lines: Mapping[str, int] | None = None
) -> None:
    """Check an extraction section: every extractor's options, and that the one in use is there.

    Args:
        kind: the section's name.
        section: ``{"extractor": name, name: {options}, …}``.
        source: the file, for the messages.
        lines: dotted key → line in that file.

    Raises:
        UserError: the extractor is unknown, or an option is unknown or has a bad value; all mistakes in one message.
    """
    mistakes = []
    name = str(section.get("extractor"))
    for key, options in section.items():
        if key in REGISTRY[kind]:
            try:
                _options(kind, key, _class(kind, key), options or {}, source, lines)
            except UserError as error:
                mistakes.append(str(error))
        elif kind == "objects" and key == ATTRIBUTES:
            try:
                _attributes_options(section, source, lines)
            except UserError as error:
                mistakes.append(str(error))
        elif key not in ("extractor", name):
            expected = ", ".join(["extractor", *REGISTRY[kind]])
            mistakes.append(f"{_where(source, lines, f'{kind}.{key}')}: unknown key; expected one of {expected}")
    try:
        cls = _class(kind, name, source, lines)
        if name not in REGISTRY[kind]:
            _options(kind, name, cls, section.get(name) or {}, source, lines)
    except UserError as error:
        mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))


def require(kind: str, section: Mapping[str, Any]) -> None:
    """Check that what the extractor in use needs is there (interpreter, checkpoint, models), without loading it.

    Raises:
        UserError: it is not; the message says how to get it, with a line for everything that is missing.
    """
    options = _chosen(kind, section)[1]
    checks = [options.require] if isinstance(options, Options) else []
    if kind == "objects":
        checks.append(_attributes_options(section).require)
    if (name := interpreter(kind, section)) is not None:
        checks.insert(0, partial(environments.require, name))
    mistakes = []
    for check in checks:
        try:
            check()
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))


def interpreter(kind: str, section: Mapping[str, Any]) -> str | None:
    """The isolated interpreter that the extractor in use runs in, or None: its class says so as `INTERPRETER`."""
    name: str | None = getattr(_chosen(kind, section)[0], "INTERPRETER", None)
    return name


def create(
    kind: str, section: Mapping[str, Any], execution: ExecutionParams | None = None
) -> "Extractor | LookupExtractor":
    """The extractor that a section of params names. Its model is loaded when the first picture comes.

    A class of the user's own (``package.module:Class``) gets the options under its own name in the section: as
    keyword arguments, or, where it has a pydantic model ``Options``, as ``Class(options, execution)``.

    Raises:
        UserError: as :func:`validate`; or a class of the user's own does not load, or is no extractor.
    """
    cls, options = _chosen(kind, section)
    where = f"params.yaml: {kind}.extractor: {section['extractor']}"
    if isinstance(options, BaseModel):
        extractor = cls(options, execution or ExecutionParams())
    else:
        try:
            extractor = cls(**options)
        except TypeError as error:
            raise UserError(f"{where}: {error}; its options are the keys below {kind}.{section['extractor']}") from None
    if kind == "objects" and (attributes := _attributes_options(section)).model is not None:
        if not isinstance(extractor, Extractor):
            raise UserError(
                f"params.yaml: objects.attributes.model: {section['extractor']} reads no pictures to find "
                "attributes in; set it to null"
            )
        from pipeline.extractors.attributes import WithAttributes

        return WithAttributes(extractor, attributes, execution or ExecutionParams())
    if isinstance(extractor, LookupExtractor | Extractor):
        return extractor
    raise UserError(f"{where}: no extractor; expected a class with fingerprint() and extract(images), or lookup(name)")


def changed_options(kind: str, section: Mapping[str, Any]) -> list[Change]:
    """The options of the extractor in use that are not its defaults; all that are given where it types none."""
    name, options = section["extractor"], _chosen(kind, section)[1]
    found: list[Change] = []
    if isinstance(options, BaseModel):
        found += params.changed(options, f"{kind}.{name}.")
    else:
        found += [Change(f"{kind}.{name}.{key}", value, None, True) for key, value in options.items()]
    if kind == "objects" and (attributes := _attributes_options(section)).model is not None:
        found += params.changed(attributes, f"{kind}.{ATTRIBUTES}.")
    return found


def option_models(kind: str) -> dict[str, type[BaseModel]]:
    """The typed options of the extractors that ship, and of `attributes`, by their key in params."""
    models = {name: _class(kind, name).Options for name in REGISTRY[kind]}
    if kind == "objects":
        from pipeline.extractors.attributes import WithAttributes

        models[ATTRIBUTES] = WithAttributes.Options
    return models


def _chosen(kind: str, section: Mapping[str, Any]) -> tuple[Any, Any]:
    name = str(section.get("extractor"))
    cls = _class(kind, name)
    return cls, _options(kind, name, cls, section.get(name) or {})


def _attributes_options(
    section: Mapping[str, Any], source: str = "params.yaml", lines: Mapping[str, int] | None = None
) -> Any:
    from pipeline.extractors.attributes import WithAttributes

    return _options("objects", ATTRIBUTES, WithAttributes, section.get(ATTRIBUTES) or {}, source, lines)


def _where(source: str, lines: Mapping[str, int] | None, key: str) -> str:
    line = (lines or {}).get(key)
    return f"{source}:{line}: {key}" if line else f"{source}: {key}"


def _class(kind: str, name: str, source: str = "params.yaml", lines: Mapping[str, int] | None = None) -> Any:
    """The class called `name` in params."""
    where = f"{_where(source, lines, f'{kind}.extractor')}: {name}"
    target = REGISTRY[kind].get(name, name)
    module_name, colon, class_name = target.partition(":")
    if not colon or not class_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(
            f"{where}: unknown extractor; expected {', '.join(REGISTRY[kind])}, or package.module:Class of your own"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise UserError(
                f"{where}: no module {error.name} on the path; it is searched for from the folder that the "
                "stage runs in, and among the installed packages"
            ) from None
        raise UserError(f"{where}: {module_name} needs the module {error.name}, which is not installed") from None
    except ImportError as error:
        raise UserError(f"{where}: {module_name} cannot be imported: {error}") from None
    if not hasattr(module, class_name):
        raise UserError(f"{where}: {module_name} has no class {class_name}")
    return getattr(module, class_name)


def _options(
    kind: str, name: str, cls: Any, options: Any, source: str = "params.yaml", lines: Mapping[str, int] | None = None
) -> Any:
    """The options below `name`, typed where the class says how; plain values otherwise."""
    key = f"{kind}.{name}"
    if not isinstance(options, Mapping):
        raise UserError(f"{_where(source, lines, key)}: expected the extractor's options, found {options!r}")
    model = getattr(cls, "Options", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return {str(option): value for option, value in options.items()}
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise UserError("\n".join(params.describe(error, model, source, dict(lines or {}), f"{key}."))) from None
