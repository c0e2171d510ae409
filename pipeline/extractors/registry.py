"""Finding the extractor that params name, and typing its options.

What an extractor is, is defined in :mod:`pipeline.extractors.base`.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.core import environments
from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.core.runs import Change
from pipeline.extractors.base import AnyExtractor, Extractor, LookupExtractor, Options
from pipeline.settings.mistakes import describe
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import changed

REGISTRY: dict[str, dict[str, str]] = {
    "objects": {
        "transformers": "pipeline.extractors.transformers_objects:TransformersObjects",
        "zero_shot": "pipeline.extractors.zero_shot:ZeroShot",
        "yolox": "pipeline.extractors.yolox:Yolox",
        "detectron2": "pipeline.extractors.detectron2:Detectron2",
        "florence2": "pipeline.extractors.florence2:Florence2Objects",
        "http": "pipeline.extractors.http:HttpObjects",
        "precomputed": "pipeline.extractors.precomputed:PrecomputedObjects",
    },
    "captions": {
        "blip": "pipeline.extractors.blip:Blip",
        "lavis": "pipeline.extractors.lavis:Lavis",
        "florence2": "pipeline.extractors.florence2:Florence2Captions",
        "vlm": "pipeline.extractors.vlm:VlmCaptions",
        "http": "pipeline.extractors.http:HttpCaptions",
        "precomputed": "pipeline.extractors.precomputed:PrecomputedCaptions",
    },
    "ocr": {
        "rapidocr": "pipeline.extractors.rapidocr:RapidOcr",
        "tesseract": "pipeline.extractors.tesseract:Tesseract",
        "easyocr": "pipeline.extractors.easyocr:EasyOcr",
        "florence2": "pipeline.extractors.florence2:Florence2Ocr",
        "vlm": "pipeline.extractors.vlm:VlmOcr",
        "http": "pipeline.extractors.http:HttpOcr",
        "precomputed": "pipeline.extractors.precomputed:PrecomputedOcr",
    },
    "features": {
        "resnet": "pipeline.extractors.resnet:ResNet",
        "backbone": "pipeline.extractors.backbone:Backbone",
        "effnet_lite": "pipeline.extractors.effnet_lite:EffNetLite",
    },
    "knowledge": {
        "vlm": "pipeline.extractors.vlm:VlmKnowledge",
        "http": "pipeline.extractors.http:HttpKnowledge",
        "retrieval": "pipeline.extractors.retrieval:Retrieval",
        "precomputed": "pipeline.extractors.precomputed_knowledge:PrecomputedKnowledge",
    },
}
"""The extractors that ship: kind → name in params.yaml → module and class."""

_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
"""How params name a class of the user's own: package.module:Class."""

ATTRIBUTES = "attributes"
"""The key in ``objects`` with the options of what adds attributes to any detector's tags."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The extractor that a section of params names, found once, with its options typed; made by :func:`choose`."""

    kind: str
    name: str | None
    """As params call it; None where the kind is switched off."""
    cls: Any
    options: Any
    """An instance of the class's `Options`, or a plain dict where it types none."""
    attributes: Any = None
    """Options of what adds attributes to tags, where that is on."""

    @property
    def off(self) -> bool:
        """Whether the kind is switched off: nothing is read."""
        return self.name is None

    @property
    def interpreter(self) -> str | None:
        """The separate environment that the extractor runs in, or None: its class names it, or its options do."""
        asked = self.options.interpreter if isinstance(self.options, Options) else None
        name: str | None = asked or getattr(self.cls, "INTERPRETER", None)
        return name

    def require(self) -> None:
        """Check that what the extractor needs is available (environment, checkpoint, models), without loading it.

        Raises:
            UserError: it is not; the message says how to get it, with a line for everything that is missing.
        """
        checks = [options.require for options in (self.options, self.attributes) if isinstance(options, Options)]
        if self.interpreter is not None:
            checks.insert(0, partial(environments.require, self.interpreter))
        mistakes = []
        for check in checks:
            try:
                check()
            except UserError as error:
                mistakes.append(str(error))
        if mistakes:
            raise UserError("\n".join(mistakes))

    def create(self, execution: ExecutionParams | None = None) -> AnyExtractor:
        """Make the extractor; its model is not loaded yet.

        A class of the user's own (``package.module:Class``) gets its options as keyword arguments or, where it has a
        pydantic model ``Options``, as ``Class(options, execution)``.

        Raises:
            UserError: a class of the user's own does not take its options, or is no extractor.
            ValueError: the kind is switched off.
        """
        if self.off:
            raise ValueError(f"{self.kind}: switched off, so there is no extractor to create")
        where = f"params.yaml: {self.kind}.extractor: {self.name}"
        execution = execution or ExecutionParams()
        if isinstance(self.options, BaseModel):
            extractor = self.cls(self.options, execution)
        else:
            try:
                extractor = self.cls(**self.options)
            except TypeError as error:
                raise UserError(f"{where}: {error}; its options are the keys below {self.kind}.{self.name}") from None
        if not isinstance(extractor, LookupExtractor | Extractor):
            what, one = ("images", "name") if KINDS[self.kind].about == "picture" else ("posts", "post")
            raise UserError(
                f"{where}: no extractor; expected a class with fingerprint() and extract({what}), or lookup({one})"
            )
        if self.attributes is None:
            return extractor
        if not isinstance(extractor, Extractor):
            raise UserError(
                f"params.yaml: objects.attributes.model: {self.name} reads no pictures to find attributes in; set it "
                "to null"
            )
        from pipeline.extractors.attributes import WithAttributes

        return WithAttributes(extractor, self.attributes, execution)

    def changed(self) -> list[Change]:
        """The options that are not their defaults; all that are given where the class types none."""
        if self.off:
            return []
        found: list[Change] = []
        if isinstance(self.options, BaseModel):
            found += changed(self.options, f"{self.kind}.{self.name}.")
        else:
            found += [
                Change(f"{self.kind}.{self.name}.{key}", value, None, True) for key, value in self.options.items()
            ]
        if self.attributes is not None:
            found += changed(self.attributes, f"{self.kind}.{ATTRIBUTES}.")
        return found


def choose(
    kind: str, section: Mapping[str, Any], source: str = "params.yaml", lines: Mapping[str, int] | None = None
) -> Choice:
    """Find the extractor that a section of params names, and type every extractor's options.

    Args:
        kind: the section's name.
        section: ``{"extractor": name, name: {options}, …}``; a name of None switches the kind off.
        source: the file, for the messages.
        lines: dotted key → line in that file.

    Raises:
        UserError: the extractor is unknown, or an option of any extractor is unknown or has a bad value; all mistakes
            in one message.
    """
    name = section.get("extractor")
    keys = [str(key) for key in section if key != "extractor"]
    keys += [key for key in (name, ATTRIBUTES if kind == "objects" else None) if key is not None and key not in keys]
    classes: dict[str, Any] = {}
    options: dict[str, Any] = {}
    mistakes = []
    for key in keys:
        try:
            if key == name or key in REGISTRY.get(kind, {}):
                classes[key] = _class(kind, key, source, lines)
            elif kind == "objects" and key == ATTRIBUTES:
                classes[key] = _with_attributes()
            elif _OWN.fullmatch(key) and isinstance(section.get(key) or {}, Mapping):
                continue  # options of a class of one's own, left in place while another extractor is used
            else:
                expected = ", ".join(["extractor", *REGISTRY.get(kind, {})])
                raise UserError(f"{_where(source, lines, f'{kind}.{key}')}: unknown key; expected one of {expected}")
            options[key] = _options(kind, key, classes[key], section.get(key) or {}, source, lines)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("\n".join(mistakes))
    if name is None:
        return Choice(kind, None, None, None)
    attributes = options.get(ATTRIBUTES) if kind == "objects" else None
    if attributes is not None and attributes.model is None:
        attributes = None
    return Choice(kind, name, classes[name], options[name], attributes)


def option_models(kind: str) -> dict[str, type[BaseModel]]:
    """The typed options of the extractors that ship, and of `attributes`, by their key in params."""
    models = {name: _class(kind, name).Options for name in REGISTRY.get(kind, {})}
    if kind == "objects":
        models[ATTRIBUTES] = _with_attributes().Options
    return models


def _with_attributes() -> Any:
    from pipeline.extractors.attributes import WithAttributes  # which builds upon the protocols, as extractors do

    return WithAttributes


def _where(source: str, lines: Mapping[str, int] | None, key: str) -> str:
    line = (lines or {}).get(key)
    return f"{source}:{line}: {key}" if line else f"{source}: {key}"


def _class(kind: str, name: str, source: str = "params.yaml", lines: Mapping[str, int] | None = None) -> Any:
    """The class called `name` in params."""
    where = f"{_where(source, lines, f'{kind}.extractor')}: {name}"
    target = REGISTRY.get(kind, {}).get(name, name)
    module_name, colon, class_name = target.partition(":")
    if not colon or not class_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(
            f"{where}: unknown extractor; expected {', '.join(REGISTRY.get(kind, {}))}, or package.module:Class of "
            "your own"
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
        raise UserError("\n".join(describe(error, model, source, dict(lines or {}), f"{key}."))) from None
