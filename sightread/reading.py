"""Reading the pictures of posts by the extractors of params, without a pipeline around it: pictures → contexts.

The engine, the store and the limits are those of the stages, so that what a stage has read is not read again here.
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.contexts.found import Found
from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS, POST_KINDS, TEXT_KINDS
from pipeline.core.records import Context, ImageRow, Post
from pipeline.core.store import Store
from pipeline.engine.inputs import Inputs, LabelledPictures, PictureInputs
from pipeline.engine.run import run
from pipeline.extractors.base import AnyExtractor, LookupExtractor, TaughtExtractor, UnavailableError
from pipeline.extractors.registry import Choice, choose
from pipeline.images.decoding import Decoders, PictureError
from pipeline.images.manifest import manifest
from pipeline.images.pictures import Folder, Pictures, read_bytes
from pipeline.settings.params import Params
from stages import knowledge
from stages.shared import extraction, paths


class Given:
    """Pictures at hand as bytes or files, by name; :class:`pipeline.images.pictures.Pictures`.

    Args:
        found: the bytes, or why there are none.
    """

    def __init__(self, found: Mapping[str, bytes | PictureError]) -> None:
        self._found = found

    def read(self, name: str) -> bytes:
        """The bytes of a picture.

        Raises:
            PictureError: there are none.
        """
        data = self._found.get(name, PictureError("missing", "no such picture"))
        if isinstance(data, PictureError):
            raise data
        return data

    def rows(self, decoders: Decoders) -> list[ImageRow]:
        """The pictures' rows as of a manifest, each decoded in full by a child process, under limits."""
        whole = [name for name, data in self._found.items() if isinstance(data, bytes)]
        sizes = dict(zip(whole, decoders.sizes([self.read(name) for name in whole]), strict=True)) if whole else {}
        rows = []
        for name, data in self._found.items():
            size = data if isinstance(data, PictureError) else sizes[name]
            digest = None if isinstance(data, PictureError) else sha256(data).hexdigest()
            if isinstance(size, PictureError):
                rows.append(ImageRow(name, digest, status=size.status, error=str(size)))
            else:
                rows.append(ImageRow(name, digest, *size))
        return sorted(rows, key=lambda row: row.image)


@dataclass(frozen=True, slots=True)
class Read:
    """What was read off the pictures of some posts.

    Attributes:
        rows: of the pictures, by name.
        contexts: by kind and picture or post id.
        found: the same, to make words of.
        folder: of the files that it was read from, which stay until the next posts are read.
    """

    rows: dict[str, ImageRow]
    contexts: dict[str, dict[str, Context]]
    found: Found
    folder: Path


class Reader:
    """Reads pictures, and asks about posts, by the extractors that params name; their models are loaded once.

    Args:
        settings: params.
        store: where results are kept.
        source: the file of params, for messages.
        tensors: whether pictures are wanted as features and objects, too, whatever the context is made of.

    Raises:
        UserError: an extractor is unknown, runs in a separate environment, or needs something that is not there.
    """

    def __init__(self, settings: Params, store: Store, source: str = "params.yaml", *, tensors: bool = False) -> None:
        self.settings, self._store = settings, store
        self._extractors: dict[str, AnyExtractor] = {}
        self._worked: set[str] = set()
        self.choices = self._choose(source, {*settings.views.kinds, *(("features", "objects") if tensors else ())})

    def _choose(self, source: str, wanted: Collection[str]) -> dict[str, Choice]:
        choices = {kind: choose(kind, self.settings.extraction(kind), source) for kind in KINDS}
        needed = set(wanted)
        for kind in POST_KINDS.keys() & needed:
            if not choices[kind].off:
                needed |= knowledge.wanted(self._extractor(choices[kind])).contexts
        mistakes = []
        for kind, choice in choices.items():
            if kind not in needed or choice.off:
                continue
            try:
                if choice.interpreter is not None:
                    raise UserError(
                        f"{source}: {kind}.extractor: {choice.name} runs in the separate environment "
                        f"{choice.interpreter}, which tagging cannot change to; read the pictures by python -m "
                        f"stages.{kind} --images DIR --output FILE.jsonl, and name that file: {kind}.extractor: "
                        "precomputed"
                    )
                choice.require()
            except UserError as error:
                mistakes.append(str(error))
        if mistakes:
            raise UserError("\n".join(mistakes))
        return {kind: choice for kind, choice in choices.items() if kind in needed and not choice.off}

    def _extractor(self, choice: Choice) -> AnyExtractor:
        if choice.kind not in self._extractors:
            extractor = choice.create(self.settings.execution)
            if isinstance(extractor, TaughtExtractor):
                extractor.teach(records.read(paths.POSTS / "train.jsonl", Post, "posts"))
            self._extractors[choice.kind] = extractor
        return self._extractors[choice.kind]

    def below(self, folder: Path, names: Collection[str]) -> tuple[list[ImageRow], Pictures]:
        """The rows of pictures of a folder, and where they are.

        Raises:
            UserError: there is no such folder.
        """
        limits, follow = self.settings.images, self.settings.data.linked_folders
        return list(manifest(names, folder, limits, self._store, follow=follow)), Folder(folder, limits, follow)

    def given(self, pictures: Mapping[str, bytes | Path], decoders: Decoders) -> tuple[list[ImageRow], Pictures]:
        """The rows of pictures that are at hand, as bytes or as files anywhere, and where they are."""
        found = Given({name: self._bytes(picture) for name, picture in pictures.items()})
        return found.rows(decoders), found

    def _bytes(self, picture: bytes | Path) -> bytes | PictureError:
        limits = self.settings.images
        try:
            if isinstance(picture, Path):
                return read_bytes(picture, limits)
            if len(picture) > limits.max_bytes:
                raise PictureError("too_large", f"{len(picture)} bytes; images.max_bytes is {limits.max_bytes}")
        except PictureError as error:
            return error
        return picture

    def read(self, posts: Sequence[Post], rows: Sequence[ImageRow], pictures: Pictures | None, folder: Path) -> Read:
        """Read what the posts' contexts are made of.

        Args:
            posts: with unique ids.
            rows: of their pictures.
            pictures: where they lie.
            folder: an empty one for the files that the extractors' results go to.

        Raises:
            UserError: an extractor fails on all that it is given at first; once it has worked, such pictures have no
                context of its kind.
        """
        for kind in KINDS:
            if kind not in self.choices:
                if kind in TEXT_KINDS:
                    (folder / f"{kind}.jsonl").write_text("\n")
                continue
            choice = self.choices[kind]
            output = folder / (f"{kind}.jsonl" if kind in TEXT_KINDS else kind)
            inputs = self._inputs(choice, posts, rows, pictures, folder)
            try:
                self._run(choice, inputs, output)
                self._worked.add(kind)
            except UnavailableError:
                raise
            except UserError as error:
                if kind not in self._worked:
                    raise
                self._extractors.pop(kind)  # it may have been closed
                print(f"warning: no {kind} for {len(posts):,} posts: {error}", file=sys.stderr)
                with KINDS[kind].writing(output, None):
                    pass
        contexts: dict[str, dict[str, Context]] = {
            kind: {each.name: each for each in TEXT_KINDS[kind].read(folder / f"{kind}.jsonl")}
            for kind in TEXT_KINDS
            if kind in self.choices
        }
        found = Found.read(folder, self.settings.views.kinds)
        return Read({row.image: row for row in rows}, contexts, found, folder)

    def words(self, read: "Read", post: Post) -> str:
        """The context of a post, by the template of params."""
        return read.found.words(self.settings.views, post, None)

    def _inputs(
        self, choice: Choice, posts: Sequence[Post], rows: Sequence[ImageRow], pictures: Pictures | None, folder: Path
    ) -> Inputs:
        settings, extractor = self.settings, self._extractor(choice)
        if choice.kind in POST_KINDS:
            given = [(None, post) for post in posts]
            return knowledge.inputs_of(knowledge.wanted(extractor), settings, given, rows, folder, pictures)
        labels = extraction.labelled(extractor, lambda: posts)
        if labels is None:
            return PictureInputs(rows, pictures, settings.images)
        return LabelledPictures(rows, pictures, settings.images, labels)

    def _run(self, choice: Choice, inputs: Inputs, output: Path) -> None:
        execution, extractor = self.settings.execution, self._extractor(choice)
        if isinstance(extractor, LookupExtractor) and next(iter(inputs.rows()), None) is None:
            with KINDS[choice.kind].writing(output, None):
                return
        batch_size = getattr(execution.batch_size, choice.kind)
        run(choice.kind, extractor, inputs, output, self._store, batch_size, execution.decode_workers)


def anchored(values: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Options whose files and folders are found from anywhere: those that lie below the folder of their params.yaml.

    Args:
        values: a section of extractors' options, or the options of one.
        folder: that params.yaml is in.
    """
    return {
        key: anchored(value, folder)
        if isinstance(value, Mapping)
        else _anchored(value, folder)
        if key in ("model", "models", "path", "passages")
        else value
        for key, value in values.items()
    }


def _anchored(value: object, folder: Path) -> object:
    if isinstance(value, list):
        return [_anchored(each, folder) for each in value]
    if isinstance(value, str) and value and (folder / value).exists():
        return str(folder / value)
    return value
