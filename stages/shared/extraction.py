"""What the extraction stages share: pictures → contexts or features, from the manifest or a folder; their records."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from pipeline.core import environments
from pipeline.core.errors import UserError, run_cli
from pipeline.core.kinds import KINDS, TEXT_KINDS
from pipeline.core.locks import stage_lock
from pipeline.core.records import ImageRow, Post
from pipeline.core.store import Store
from pipeline.engine.along import Along
from pipeline.engine.inputs import Inputs, LabelledPictures, PictureInputs
from pipeline.engine.one_pass import OnePass
from pipeline.engine.ray import RayEngine
from pipeline.engine.run import Engine, Local, Summary, run_part
from pipeline.engine.run import run as run_engine
from pipeline.engine.shards import Part
from pipeline.extractors.base import (
    AnyExtractor,
    Extractor,
    LabelledExtractor,
    LookupExtractor,
    TaughtExtractor,
    fingerprint_of,
)
from pipeline.extractors.registry import Choice, choose
from pipeline.images import manifest as images
from pipeline.images.listing import listing
from pipeline.images.pictures import Folder, Pictures
from pipeline.images.remote import opened
from pipeline.settings import params
from pipeline.settings.params import Params
from stages.shared import paths, posts
from stages.shared.record import recorded
from stages.shared.sharing import add_part, results_of

PostsOf: TypeAlias = Callable[[Params, Path | None], Iterable[Post]]
"""The posts of a file, or with None those of the pipeline."""
_Labels: TypeAlias = Mapping[str, tuple[str, ...]]


def run(kind: str, posts_of: PostsOf | None = None) -> None:
    """Run the stage, or with ``--images`` and ``--output`` read a folder of pictures without DVC.

    Args:
        kind: what is read off pictures.
        posts_of: of a kind whose extractors may look for what the posts say that show a picture.
    """
    run_cli(lambda: _main(kind, posts_of))


def _main(kind: str, posts_of: PostsOf | None) -> None:
    where = KINDS[kind].OUTPUT
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{kind}", description=f"Read {kind} off pictures: the pipeline's, or those of a folder."
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="read the pictures of this folder")
    parser.add_argument("--output", type=Path, metavar=where, help="where the results of --images go")
    if posts_of is not None:
        parser.add_argument("--posts", type=Path, metavar="FILE.jsonl", help="posts that show the pictures of --images")
    add_part(parser)
    parser.add_argument("--params", type=Path, default=paths.PARAMS, metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.part is not None and arguments.images is not None:
        raise UserError("--part I/N shares out the pipeline's pictures; leave --images DIR out")
    if (arguments.images is None) != (arguments.output is None):
        raise UserError(f"--images DIR and --output {where} go together")
    file: Path | None = getattr(arguments, "posts", None)
    if file is not None and arguments.images is None:
        raise UserError("--posts FILE.jsonl goes with --images DIR")
    settings = params.load(arguments.params)
    choice = choose(kind, settings.extraction(kind), str(arguments.params))
    if choice.off:
        if arguments.output is not None:
            raise UserError(f"params.yaml: {kind}.extractor: null; expected the extractor that reads --images")
        switched_off(kind)
        return
    if choice.interpreter is not None:
        environments.enter(choice.interpreter)  # before any lock is taken: this process goes on there
    with Store.open() as store:
        if arguments.part is not None:
            extractor = create(choice, settings)
            labels = labelled(extractor, partial(posts_of, settings, None)) if posts_of else None
            inputs = _pictures(settings, paths.IMAGES, pictures_of(settings, store), labels)
            print(read_part(choice, extractor, settings, inputs, store, arguments.part))
        elif arguments.images is None:
            with stage_lock(kind), recorded(kind) as record:
                extractor = create(choice, settings)
                labels = labelled(extractor, partial(posts_of, settings, None)) if posts_of else None
                inputs = _pictures(settings, paths.IMAGES, pictures_of(settings, store), labels)
                summary, found = extract(choice, extractor, settings, inputs, output_of(kind), store)
                record |= found
                if settings.data.images is None and not isinstance(extractor, LookupExtractor):
                    print(f"{kind}: no pictures in this data set (data.images: null)")
                else:
                    print(summary)
        else:
            names, left_out = listing(arguments.images)
            rows = list(
                images.manifest(names, arguments.images, settings.images, store, follow=settings.data.linked_folders)
            )
            extractor = create(choice, settings)
            labels = labelled(extractor, partial(_of_file, posts_of, settings, file, set(names))) if posts_of else None
            inputs = _pictures(settings, rows, folder_of(settings, arguments.images), labels)
            summary, _ = extract(choice, extractor, settings, inputs, arguments.output, store, of_stage=False)
            print(f"{summary}; left out: {left_out}" if left_out else summary)


def output_of(kind: str) -> Path:
    """What the stage writes."""
    return paths.CONTEXTS / f"{kind}.jsonl" if kind in TEXT_KINDS else paths.FEATURES


def switched_off(kind: str) -> None:
    """Leave what later stages read without a row; nothing is loaded, looked up or counted."""
    with stage_lock(kind), recorded(kind) as record:
        with KINDS[kind].writing(output_of(kind), None):
            pass
        record |= {
            "items": 0,
            "unit": f"{KINDS[kind].about}s",
            "from_store": 0,
            "failed": 0,
            "extractor": None,
            "fingerprint": None,
            "changed": [],
        }
    print(f"{kind}: off")


def _pictures(
    settings: Params, manifest: Path | Iterable[ImageRow], pictures: Pictures | None, labels: _Labels | None
) -> PictureInputs:
    if labels is None:
        return PictureInputs(manifest, pictures, settings.images)
    return LabelledPictures(manifest, pictures, settings.images, labels)


def labelled(extractor: AnyExtractor, posts: Callable[[], Iterable[Post]]) -> _Labels | None:
    """What to look for in each picture, by name; None where that is the same in all, and no posts are read."""
    if not isinstance(extractor, LabelledExtractor) or extractor.labels_of(()) is None:
        return None
    texts: dict[str, list[Sequence[str]]] = {}
    for post in posts():
        for image in post.images:
            texts.setdefault(image, []).append(post.tokens)
    return {image: extractor.labels_of(shown) or () for image, shown in texts.items()}


def _of_file(posts_of: PostsOf, settings: Params, file: Path | None, names: Set[str]) -> list[Post]:
    """The posts of ``--posts``.

    Raises:
        UserError: there is no such file, or none of its posts shows one of the pictures.
    """
    if file is None:
        raise UserError("the extractor looks for what posts say that show a picture; give them as --posts FILE.jsonl")
    posts = list(posts_of(settings, file))
    if names and names.isdisjoint(image for post in posts for image in post.images):
        raise UserError(f"{file}: none of its {len(posts):,} posts shows a picture of --images, such as {min(names)}")
    return posts


def folder_of(settings: Params, folder: Path | None) -> Folder | None:
    """A folder of pictures, read within the limits of params."""
    return None if folder is None else Folder(folder, settings.images, settings.data.linked_folders)


def pictures_of(settings: Params, store: Store) -> Pictures | None:
    """Where the data set's pictures lie, read within the limits of params."""
    return opened(settings.data, settings.images, store)


def create(choice: Choice, settings: Params) -> AnyExtractor:
    """The extractor, once what it needs is known to be there; raises UserError where it is not."""
    choice.require()
    return choice.create(settings.execution)


def extract(
    choice: Choice,
    extractor: AnyExtractor,
    settings: Params,
    inputs: Inputs,
    output: Path,
    store: Store,
    *,
    of_stage: bool = True,
) -> tuple[Summary, dict[str, Any]]:
    """Run the engine; return what became of the inputs, and what the report says of it."""
    summary = run_engine(
        choice.kind,
        extractor,
        inputs,
        output,
        results_of(settings, store),
        of_stage=of_stage,
        engine=_engine(choice, extractor, settings, store if of_stage else None),
    )
    return summary, {
        "items": summary.read,
        "unit": f"{summary.about}s",
        "from_store": summary.from_store,
        "failed": summary.failed,
        "extractor": choice.name,
        "fingerprint": None if isinstance(extractor, LookupExtractor) else fingerprint_of(extractor),
        "changed": choice.changed(),
    }


def read_part(
    choice: Choice, extractor: AnyExtractor, settings: Params, inputs: Inputs, store: Store, part: Part
) -> str:
    """Read what one of several processes is to read; return what became of it, in words."""
    engine = _local(choice, settings, store)
    outcome = run_part(choice.kind, extractor, inputs, results_of(settings, store), part, engine=engine)
    return f"{choice.kind}, part {part}: {outcome.count:,} read, {len(outcome.failures):,} failed"


def _engine(choice: Choice, extractor: AnyExtractor, settings: Params, store: Store | None) -> Engine:
    """What reads; `store` is that of a stage.

    Raises:
        UserError: the extractor's environment has not what a cluster's workers need.
    """
    execution = settings.execution
    if execution.engine == "ray" and not isinstance(extractor, LookupExtractor):
        if not isinstance(extractor, TaughtExtractor):
            environment = None
            if choice.interpreter is not None:
                environments.require_ray(choice.interpreter)
                environment = environments.environment(choice.interpreter)
            along = _others(choice, settings, store)
            return RayEngine(settings.extraction(choice.kind), execution, environment, along)
        print(f"{choice.kind}: {choice.name} learns from the posts of this machine, and reads here", file=sys.stderr)
    return _local(choice, settings, store)


def _local(choice: Choice, settings: Params, store: Store | None) -> Engine:
    """What reads in this process; of a stage, where params say so, with other kinds that lack results."""
    execution = settings.execution
    batch_size, along = getattr(execution.batch_size, choice.kind), _others(choice, settings, store)
    if not along:
        return Local(batch_size, execution.decode_workers)
    return OnePass(batch_size, execution.decode_workers, along)


def _others(choice: Choice, settings: Params, store: Store | None) -> dict[str, Callable[[], Along | None]]:
    """What makes the other kinds that a stage reads along."""
    kinds = settings.execution.one_pass
    if store is None or choice.kind not in kinds or choice.interpreter is not None:
        return {}
    others = [other for other in KINDS if other in kinds and other != choice.kind]
    return {other: partial(_along, other, settings, store) for other in others}


def _along(kind: str, settings: Params, store: Store) -> Along | None:
    """Another kind to read along; None where it is off, looked up, or read in a separate environment.

    Raises:
        UserError: as :func:`create`, or its extractor looks for what posts say and there are none.
    """
    section = settings.extraction(kind)
    choice = choose(kind, section)
    if choice.off or choice.interpreter is not None:
        return None
    extractor = create(choice, settings)
    if not isinstance(extractor, Extractor):
        return None
    labels = labelled(extractor, lambda: (post for _, post in posts.of_all_splits()))
    inputs = _pictures(settings, paths.IMAGES, pictures_of(settings, store), labels)
    return Along(kind, extractor, inputs, getattr(settings.execution.batch_size, kind), section)
