"""What the stages that read pictures share: pictures → contexts or features, from the manifest or a folder."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.core import environments
from pipeline.core.errors import UserError, run_cli
from pipeline.core.kinds import KINDS, TEXT_KINDS
from pipeline.core.locks import stage_lock
from pipeline.core.records import ImageRow
from pipeline.core.store import Store
from pipeline.engine.run import Summary, extract
from pipeline.extractors.base import LookupExtractor
from pipeline.extractors.registry import Choice, choose
from pipeline.images import manifest as images
from pipeline.images.listing import listing
from pipeline.images.pictures import Folder
from pipeline.settings import params
from pipeline.settings.params import Params
from stages.shared import paths
from stages.shared.record import recorded


def run(kind: str) -> None:
    """Run the stage, or with ``--images`` and ``--output`` read a folder of pictures without DVC."""
    run_cli(lambda: _main(kind))


def _main(kind: str) -> None:
    where = KINDS[kind].OUTPUT
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{kind}", description=f"Read {kind} off pictures: the pipeline's, or those of a folder."
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="read the pictures of this folder")
    parser.add_argument("--output", type=Path, metavar=where, help="where the results of --images go")
    parser.add_argument("--params", type=Path, default=paths.PARAMS, metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args()
    if (arguments.images is None) != (arguments.output is None):
        raise UserError(f"--images DIR and --output {where} go together")
    settings = params.load(arguments.params)
    choice = choose(kind, settings.extraction(kind), str(arguments.params))
    if choice.off:
        _switched_off(kind, arguments.output)
        return
    if choice.interpreter is not None:
        environments.enter(choice.interpreter)  # before any lock is taken: this process goes on there
    with Store.open() as store:
        if arguments.images is None:
            with stage_lock(kind), recorded(kind) as record:
                folder = settings.data.images_folder
                summary, found = _extract(choice, settings, paths.IMAGES, folder, _output(kind), store)
                record |= found
                print(summary)
        else:
            names, left_out = listing(arguments.images)
            rows = list(
                images.manifest(names, arguments.images, settings.images, store, follow=settings.data.linked_folders)
            )
            summary, _ = _extract(choice, settings, rows, arguments.images, arguments.output, store)
            print(f"{summary}; left out: {left_out}" if left_out else summary)


def _output(kind: str) -> Path:
    """What the stage writes."""
    return paths.CONTEXTS / f"{kind}.jsonl" if kind in TEXT_KINDS else paths.FEATURES


def _switched_off(kind: str, output: Path | None) -> None:
    """Leave what later stages read without a row; nothing is loaded, looked up or counted."""
    if output is not None:
        raise UserError(f"params.yaml: {kind}.extractor: null; expected the extractor that reads --images")
    with stage_lock(kind), recorded(kind) as record:
        with KINDS[kind].writing(_output(kind), None):
            pass
        record |= {
            "items": 0,
            "unit": "pictures",
            "from_store": 0,
            "failed": 0,
            "extractor": None,
            "fingerprint": None,
            "changed": [],
        }
    print(f"{kind}: off")


def _extract(
    choice: Choice,
    settings: Params,
    manifest: Path | Iterable[ImageRow],
    folder: Path | None,
    output: Path,
    store: Store,
) -> tuple[Summary, dict[str, Any]]:
    """Run the engine; return what became of the pictures, and what the report says of it."""
    choice.require()
    extractor = choice.create(settings.execution)
    summary = extract(
        choice.kind,
        extractor,
        manifest,
        None if folder is None else Folder(folder, settings.images, settings.data.linked_folders),
        output,
        store,
        batch_size=getattr(settings.execution.batch_size, choice.kind),
        workers=settings.execution.decode_workers,
        limits=settings.images,
    )
    return summary, {
        "items": summary.read,
        "unit": "pictures",
        "from_store": summary.from_store,
        "failed": summary.failed,
        "extractor": choice.name,
        "fingerprint": None if isinstance(extractor, LookupExtractor) else dict(extractor.fingerprint()),
        "changed": choice.changed(),
    }
