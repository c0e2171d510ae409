"""What there is to know of a training, kept beside the weights in training.json: data, params, result, versions.

The card of a tagger is rendered from it (:mod:`ner.interop.model_card`).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.core import checksums
from pipeline.core.errors import UserError
from pipeline.core.files import portable, write_json
from pipeline.core.labels import entities
from pipeline.core.records import View, ViewSources
from pipeline.core.version import __version__
from pipeline.settings.training import TrainParams

FILE = "training.json"


def gather(
    settings: TrainParams,
    sources: ViewSources,
    encoder: str,
    views: Mapping[str, Sequence[View]],
    result: Mapping[str, Any],
    pictures: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What there is to know of a training, as JSON. No path outside the project is in it.

    Args:
        settings: the section `train` of params.yaml as it was.
        sources: what the views are made of.
        encoder: the identity of the encoder's checkpoint.
        views: by split, what was trained on and chosen by.
        result: what :func:`ner.training.run.train` returned.
        pictures: what :func:`pictures` has found; None: they are read as words, if at all.
    """
    name = portable(settings.encoder)
    return {
        "data": sources.data,
        "splits": {split: _counts(rows) for split, rows in views.items()},
        "contexts": dict(sources.contexts),
        "encoder": {"name": name, "identity": encoder},
        "params": _portable(settings),
        "result": dict(result),
        **dict(pictures or {}),
        "versions": {"Sightread": __version__, **{package: version(package) for package in ("torch", "transformers")}},
    }


def pictures(tagger: Path, sources: ViewSources) -> dict[str, Any]:
    """What a tagger reads of pictures as tensors, and which words it has vectors of, as its config says it.

    Args:
        tagger: its folder.
        sources: what reads the pictures.

    Returns:
        ``{"pictures": {"features": {"reader", "fingerprint", "regions", "width"} or None, "objects": {"reader",
        "labels": how many} or None}, "word_vectors": {"file", "words": how many, "width"} or None}``; nothing of a
        tagger that has none of it.
    """
    config = json.loads((tagger / "config.json").read_text(encoding="utf-8"))
    known, options = config.get("facts") or {}, config.get("options") or {}
    features = objects = words = None
    if known.get("region_width"):
        features = {
            "reader": sources.tensors.get("features"),
            "fingerprint": known.get("fingerprint"),
            "regions": known["n_cells"],
            "width": known["region_width"],
        }
    if known.get("object_labels"):
        objects = {"reader": sources.tensors.get("objects"), "labels": len(known["object_labels"])}
    if known.get("words") is not None:
        words = {"file": options.get("word_vectors"), "words": len(known["words"]), "width": known["word_width"]}
    found: dict[str, Any] = {"pictures": {"features": features, "objects": objects}} if features or objects else {}
    return found if words is None else {**found, "word_vectors": words}


def _portable(settings: TrainParams) -> dict[str, Any]:
    """The section as JSON, with no path outside the project in it."""
    params = settings.model_dump(mode="json")
    params["encoder"] = portable(settings.encoder)
    params["teacher"]["taggers"] = [portable(name) for name in settings.teacher.taggers]
    if (vectors := settings.iie4mner.word_vectors) is not None:
        params["iie4mner"]["word_vectors"] = portable(vectors)
    return params


def _counts(views: Sequence[View]) -> dict[str, Any]:
    found = Counter(entity.type for view in views for entity in entities(view.labels or [], "conlleval"))
    return {
        "posts": len(views),
        "tokens": sum(len(view.tokens) for view in views),
        "with_context": sum(bool(view.context) for view in views),
        "with_picture": sum(bool(view.images) for view in views),
        "entities": dict(sorted(found.items())),
    }


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write training.json into a tagger's folder, and the checksums of its files."""
    write_json(folder / FILE, found)
    checksums.seal(folder)


def read(folder: Path) -> dict[str, Any]:
    """What :func:`gather` has found, from a tagger's folder.

    Raises:
        UserError: the folder has no training.json.
    """
    try:
        return json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder}: {FILE} is missing, which tells how the tagger was trained; only taggers that "
            "`dvc repro train` has trained have a card"
        ) from None
    except ValueError as error:
        raise UserError(f"{folder / FILE}: not JSON: {error}") from None
