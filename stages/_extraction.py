"""What the stages `objects`, `captions` and `ocr` share: pictures → context rows, from the manifest or a folder."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.core import environments
from pipeline.core.errors import UserError, run_cli
from pipeline.core.locks import stage_lock
from pipeline.core.records import ImageRow
from pipeline.core.store import Store
from pipeline.engine import local as extraction
from pipeline.extractors import registry
from pipeline.extractors.base import LookupExtractor
from pipeline.images import manifest as images
from pipeline.settings import params
from pipeline.settings.params import Params
from stages import paths
from stages._record import recorded


def run(kind: str) -> None:
    """Run the stage, or with ``--images`` and ``--output`` read a folder of pictures without DVC."""
    run_cli(lambda: _main(kind))


def _main(kind: str) -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{kind}", description=f"Read {kind} off pictures: the pipeline's, or those of a folder."
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="read the pictures of this folder")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="where the rows of --images go")
    parser.add_argument("--params", type=Path, default=paths.PARAMS, metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args()
    if (arguments.images is None) != (arguments.output is None):
        raise UserError("--images DIR and --output FILE.jsonl go together")
    settings = params.load(arguments.params)
    section = getattr(settings, kind).model_dump()
    registry.validate(kind, section)
    if (interpreter := registry.interpreter(kind, section)) is not None:
        environments.enter(interpreter)  # before any lock is taken: this process goes on there
    with Store.open() as store:
        if arguments.images is None:
            with stage_lock(kind), recorded(kind) as record:
                record |= _extract(
                    kind, settings, paths.IMAGES, settings.data.images_folder, paths.CONTEXTS / f"{kind}.jsonl", store
                )
        else:
            names = images.list_pictures(arguments.images)
            rows = list(images.manifest(names, arguments.images, settings.images, store))
            _extract(kind, settings, rows, arguments.images, arguments.output, store)


def _extract(
    kind: str, settings: Params, manifest: Path | Iterable[ImageRow], folder: Path | None, output: Path, store: Store
) -> dict[str, Any]:
    """Run the engine; return what the report says of it."""
    section = getattr(settings, kind).model_dump()
    registry.require(kind, section)
    extractor = registry.create(kind, section, settings.execution)
    summary = extraction.extract(
        kind,
        extractor,
        manifest,
        folder,
        output,
        store,
        batch_size=getattr(settings.execution.batch_size, kind),
        workers=settings.execution.decode_workers,
        limits=settings.images,
    )
    print(summary)
    fingerprint = None if isinstance(extractor, LookupExtractor) else dict(extractor.fingerprint())
    return {
        "items": summary.read,
        "unit": "pictures",
        "from_store": summary.from_store,
        "failed": summary.failed,
        "extractor": section["extractor"],
        "fingerprint": fingerprint,
        "changed": registry.changed_options(kind, section),
    }
