"""Stage `knowledge`: posts, with their contexts and pictures → data/contexts/knowledge.jsonl, or --posts → --output.

Posts are those of all splits that views are made of. Which contexts and pictures the extractor is shown, it says
itself; what it is shown is all that the key of its result in the store depends on.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline.contexts.found import Found
from pipeline.core import environments, records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.kinds import KINDS
from pipeline.core.locks import stage_lock
from pipeline.core.records import ImageRow, Post
from pipeline.core.store import Store
from pipeline.corpus import jsonl
from pipeline.corpus.reading import unique_ids
from pipeline.engine.inputs import PostInputs
from pipeline.engine.run import Summary
from pipeline.extractors.base import AnyExtractor, TaughtExtractor, WantingExtractor, Wants
from pipeline.extractors.registry import Choice, choose
from pipeline.images.manifest import manifest
from pipeline.images.pictures import Pictures
from pipeline.settings import params
from pipeline.settings.params import Params
from stages.shared import extraction, paths, posts
from stages.shared.record import recorded
from stages.shared.sharing import add_part

KIND = "knowledge"


def main() -> None:
    """Run the stage, or with ``--posts`` and ``--output`` read a file of posts without DVC."""
    arguments = _arguments()
    settings = params.load(arguments.params)
    choice = choose(KIND, settings.extraction(KIND), str(arguments.params))
    if choice.off:
        if arguments.output is not None:
            raise UserError(f"{arguments.params}: {KIND}.extractor: null; expected the extractor that reads --posts")
        extraction.switched_off(KIND)
        return
    if choice.interpreter is not None:
        environments.enter(choice.interpreter)  # before any lock is taken: this process goes on there
    with Store.open() as store:
        extractor = extraction.create(choice, settings)
        if isinstance(extractor, TaughtExtractor):
            extractor.teach(records.read(paths.POSTS / "train.jsonl", Post, "posts"))
        if arguments.part is not None:
            inputs = _stage_inputs(extractor, settings, store)
            print(extraction.read_part(choice, extractor, settings, inputs, store, arguments.part))
        elif arguments.posts is None:
            print(_run_stage(choice, extractor, settings, store))
        else:
            print(_run_file(choice, extractor, settings, store, arguments))


def _arguments() -> argparse.Namespace:
    where = KINDS[KIND].OUTPUT
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{KIND}", description="What is known about posts: the pipeline's, or those of a file."
    )
    parser.add_argument(
        "--posts", type=Path, metavar="FILE.jsonl", help="read these posts, written as docs/your-data.md"
    )
    parser.add_argument("--output", type=Path, metavar=where, help="where the results of --posts go")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of their pictures")
    parser.add_argument(
        "--contexts", type=Path, metavar="DIR", help="the folder of captions.jsonl, ocr.jsonl, … of them"
    )
    add_part(parser)
    parser.add_argument("--params", type=Path, default=paths.PARAMS, metavar="FILE", help="default: %(default)s")
    arguments = parser.parse_args()
    if (arguments.posts is None) != (arguments.output is None):
        raise UserError(f"--posts FILE.jsonl and --output {where} go together")
    if arguments.part is not None and arguments.posts is not None:
        raise UserError("--part I/N shares out the pipeline's posts; leave --posts FILE.jsonl out")
    if arguments.posts is None and (arguments.images or arguments.contexts):
        raise UserError("--images DIR and --contexts DIR go with --posts FILE.jsonl")
    return arguments


def _run_stage(choice: Choice, extractor: AnyExtractor, settings: Params, store: Store) -> Summary:
    with stage_lock(KIND), recorded(KIND) as record:
        inputs = _stage_inputs(extractor, settings, store)
        summary, found = extraction.extract(choice, extractor, settings, inputs, extraction.output_of(KIND), store)
        record |= found
    return summary


def _stage_inputs(extractor: AnyExtractor, settings: Params, store: Store) -> PostInputs:
    """The pipeline's posts, with what the extractor wants of them."""
    given = list(posts.of_all_splits())
    rows = list(records.read(paths.IMAGES, ImageRow, "images"))
    pictures = extraction.pictures_of(settings, store)
    return inputs_of(wanted(extractor), settings, given, rows, paths.CONTEXTS, pictures)


def _run_file(
    choice: Choice, extractor: AnyExtractor, settings: Params, store: Store, arguments: argparse.Namespace
) -> Summary:
    """Read the posts of a file.

    Raises:
        UserError: the extractor is shown what the arguments do not give.
    """
    wants = wanted(extractor)
    if wants.contexts and arguments.contexts is None:
        kinds = ", ".join(sorted(wants.contexts))
        raise UserError(f"{KIND}: the extractor is shown {kinds}; give the folder of their files as --contexts DIR")
    if wants.pictures and arguments.images is None:
        raise UserError(f"{KIND}: the extractor is shown pictures; give their folder as --images DIR")
    given = [(None, post) for post in unique_ids(jsonl.read(arguments.posts, image_name=settings.data.image_name))]
    names = {image for _, post in given for image in post.images}
    rows = list(manifest(names, arguments.images, settings.images, store, follow=settings.data.linked_folders))
    pictures = extraction.folder_of(settings, arguments.images)
    inputs = inputs_of(wants, settings, given, rows, arguments.contexts, pictures)
    summary, _ = extraction.extract(choice, extractor, settings, inputs, arguments.output, store, of_stage=False)
    return summary


def wanted(extractor: AnyExtractor) -> Wants:
    """What an extractor is shown besides the text of posts."""
    return extractor.wants() if isinstance(extractor, WantingExtractor) else Wants()


def inputs_of(
    wants: Wants,
    settings: Params,
    given: Sequence[tuple[str | None, Post]],
    rows: Sequence[ImageRow],
    contexts: Path,
    pictures: Pictures | None,
) -> PostInputs:
    """The posts, each with what is wanted of it: its contexts by the template of their kinds, its pictures."""
    kinds = sorted(wants.contexts)
    found = Found.read(contexts, kinds)
    templates = {kind: settings.views.model_copy(update={"kinds": [kind]}) for kind in kinds}
    words = ({kind: found.words(templates[kind], post, split) for kind in kinds} for split, post in given)
    return PostInputs(given, wants, words, rows, pictures, settings.images)


if __name__ == "__main__":
    run_cli(main)
