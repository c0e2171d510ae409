"""From posts and their pictures to entities, found with the pictures and without them, in one call or as a stream.

``Sightread.load(model, params).tag("text", images=[...])``. What reads the pictures is :mod:`sightread.reading`'s,
what finds entities :mod:`ner.tagger`'s; where posts come from is left to the caller.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from ner.predictions import with_offsets
from ner.tagger import Tagger
from ner.training import facts
from ner.visual import Visuals
from pipeline.core import records
from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS, POST_KINDS, TEXT_KINDS
from pipeline.core.progress import muted
from pipeline.core.records import Context, FoundEntity, ImageRow, Post, Prediction, View
from pipeline.core.store import Store, batched
from pipeline.corpus.reading import unique_ids
from pipeline.images.decoding import Decoders
from pipeline.images.pictures import Pictures
from pipeline.settings import params as settings_of
from pipeline.settings.params import Params
from sightread.reading import Read, Reader, anchored
from sightread.rows import Row
from stages.views import sources

CHUNK = 256
"""Posts that are read together: their pictures make whole batches, and rows come out so many at a time."""


@dataclass(frozen=True, slots=True)
class SeenPicture:
    """A picture of a post.

    Attributes:
        row: its name, size and status; one that is not ok has been read by nobody.
        found: what was found in it, or why nothing, by kind.
    """

    row: ImageRow
    found: dict[str, Context] = field(default_factory=dict)

    def as_row(self) -> dict[str, Any]:
        """As JSON: name, status, size, the items of each kind, and under `failed` why a kind has none."""
        known = {"image": self.row.image, "status": self.row.status, "error": self.row.error}
        items = {kind: [records.row(item) for item in each.items] for kind, each in self.found.items()}
        failed = {kind: f"{each.status}: {each.error}" for kind, each in self.found.items() if each.status != "ok"}
        size = {"width": self.row.width, "height": self.row.height}
        return {**known, **size, **items, **({"failed": failed} if failed and self.row.status == "ok" else {})}


@dataclass(frozen=True, slots=True)
class Tagged:
    """What was found in a post.

    Attributes:
        post: its tokens, labels where it has some, and pictures' names.
        text: what its tokens were made of; None where tokens were given.
        seen: found with what its pictures show and what is known about it.
        alone: found in the text alone; the same where there is nothing else.
        context: what its pictures show, in words.
        pictures: each with what was found in it.
        notes: what is known about the post, by kind.
    """

    post: Post
    text: str | None
    seen: Prediction
    alone: Prediction
    context: str
    pictures: tuple[SeenPicture, ...] = ()
    notes: dict[str, Context] = field(default_factory=dict)

    @property
    def entities(self) -> list[FoundEntity]:
        """Those found with the pictures."""
        return self.seen.entities

    @property
    def changed(self) -> bool:
        """Whether the pictures change which entities are found."""
        return self.seen.predicted != self.alone.predicted

    def as_row(self) -> dict[str, Any]:
        """As JSON: a prediction's keys, and `text`, `text_only`, `changed`, `context`, `pictures` beside them."""
        seen, alone = records.row(self.seen), records.row(self.alone)
        known = {kind: [records.row(item) for item in each.items] for kind, each in self.notes.items()}
        return {
            "id": self.post.id,
            **({} if self.text is None else {"text": self.text}),
            **{key: seen[key] for key in ("tokens", "labels", "predicted", "entities")},
            "text_only": {key: alone[key] for key in ("predicted", "entities")},
            "changed": self.changed,
            "context": self.context,
            "context_used": seen["context_used"],
            **known,
            "pictures": [picture.as_row() for picture in self.pictures],
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """A post that is to be tagged, with an id that no other of its chunk has."""

    row: Row
    post: Post


class Sightread:
    """A tagger together with what reads pictures; made by :meth:`load`, safe to use from several threads.

    Args:
        tagger: a trained one.
        reader: of pictures; None: posts are tagged by their text alone.
        batch_size: encoder windows at once.
        resources: what :meth:`close` closes.
    """

    def __init__(self, tagger: Tagger, reader: Reader | None, batch_size: int, resources: ExitStack) -> None:
        self.tagger, self.reader, self._batch_size, self._resources = tagger, reader, batch_size, resources
        self._decoders = resources.enter_context(Decoders(reader.settings.images)) if reader is not None else None
        self._guard = threading.RLock()

    @classmethod
    def load(
        cls,
        model: str | Path,
        params: str | Path | Params | None = None,
        *,
        device: str | None = None,
        revision: str | None = None,
    ) -> Self:
        """Load a tagger and, where params are given, set up the extractors that they name.

        Args:
            model: a tagger's folder, or a repository on the hub (`owner/name`).
            params: a params.yaml, or what was read of one: which extractors read pictures, and how contexts are made
                of what they find. Models of theirs are looked for below its folder as well. None: text alone.
            device: auto, cpu, cuda, cuda:1, …; None: as params say.
            revision: commit, branch or tag of a hub repository.

        Raises:
            UserError: there is no such tagger or device, or params have a mistake.
        """
        settings = _settings(params)
        with ExitStack() as stack:
            reader = None
            chosen = device or ("auto" if settings is None else settings.execution.device)
            tagger = Tagger.load(model, chosen, revision)
            if settings is not None:
                store = stack.enter_context(Store.open())
                source = "params.yaml" if isinstance(params, Params | None) else str(params)
                reader = Reader(settings, store, source, tensors=tagger.reads_visual)
                _warn_of_other_readers(Path(model), settings)
            batch_size = 32 if settings is None else settings.execution.predict_batch_size
            return cls(tagger, reader, batch_size, stack.pop_all())

    def close(self) -> None:
        """Give back what it holds."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def tag(self, text: str | Sequence[str], images: Sequence[str | Path | bytes] = ()) -> Tagged:
        """Tag one post.

        Args:
            text: a text, or its tokens.
            images: its pictures, as files or their bytes. One that cannot be read is left out, and says so.

        Raises:
            ValueError: the text or a token is none (:meth:`ner.tagger.Tagger.tag`), or `images` is a single picture.
            UserError: there are pictures, and no params that say what reads them; or an extractor fails.
        """
        [found] = self.tag_many([(text, images)])
        return found

    def tag_many(self, posts: Sequence[tuple[str | Sequence[str], Sequence[str | Path | bytes]]]) -> list[Tagged]:
        """Tag several posts, each a text or tokens and its pictures, in order; as :meth:`tag`."""
        given: dict[str, bytes | Path] = {}
        rows = []
        for _, images in posts:
            if isinstance(images, str | bytes | Path):
                raise ValueError("images: expected a list of pictures, found a single one; put it in brackets")
        files = {str(image) for _, images in posts for image in images if not isinstance(image, bytes)}
        for number, (text, images) in enumerate(posts, start=1):
            own: dict[str, bytes | Path] = {}
            for place, image in enumerate(images, start=1):
                if isinstance(image, bytes):
                    name = f"{number}.{place}"
                    while name in files:
                        name += "+"
                    own[name] = image
                else:
                    own[str(image)] = Path(image)
            given |= own
            rows.append(self._row(str(number), text, list(own)))
        if given and self.reader is None:
            raise UserError("pictures were given, but no params that say which extractors read them")

        def shown(reader: Reader, _names: set[str]) -> tuple[list[ImageRow], Pictures]:
            assert self._decoders is not None, "there is a reader"
            return reader.given(given, self._decoders)

        return [each for each in self._tag(rows, shown) if isinstance(each, Tagged)]

    def _row(self, identifier: str, text: str | Sequence[str], images: list[str]) -> Row:
        if not isinstance(text, str):
            return Row(identifier, records.checked(Post(identifier, list(text), None, images)))
        pairs = self.tagger.split(text)
        post = records.checked(Post(identifier, [token for token, _ in pairs], None, images))
        return Row(identifier, post, text, tuple(start for _, start in pairs))

    def stream(self, rows: Iterable[Row], folder: Path | None = None, chunk: int = CHUNK) -> Iterator[Tagged | Row]:
        """Tag rows as they come, so many at a time.

        Args:
            rows: of posts (:func:`sightread.rows.read`).
            folder: where the pictures lie that they name; None: they are not looked at.
            chunk: how many posts are read together.

        Yields:
            for each row, in order, what was found; or the row itself where it stands for no post.

        Raises:
            UserError: there is no such folder, or an extractor fails on all of the first pictures.
        """

        def shown(reader: Reader, names: set[str]) -> tuple[list[ImageRow], Pictures | None]:
            if folder is not None:
                return reader.below(folder, names)
            return [ImageRow(name, status="missing", error=_NO_FOLDER) for name in sorted(names)], None

        if folder is not None and not folder.is_dir():
            raise UserError(f"{folder}: no such folder of pictures")
        for some in batched(rows, chunk):
            yield from self._tag(some, shown)

    def _tag(
        self, rows: Sequence[Row], shown: Callable[[Reader, set[str]], tuple[list[ImageRow], Pictures | None]]
    ) -> list[Tagged | Row]:
        posts = [row.post for row in rows if row.post is not None]
        asked = {
            id(row): _Asked(row, post)
            for row, post in zip((row for row in rows if row.post is not None), unique_ids(posts), strict=True)
        }
        with self._guard, muted(), TemporaryDirectory(prefix="sightread-") as temporary:
            read: Read | None = None
            if self.reader is not None and posts:
                names = {image for post in posts for image in post.images}
                pictures, place = shown(self.reader, names)
                given = [each.post for each in asked.values()]
                read = self.reader.read(given, pictures, place, Path(temporary))
            found = dict(zip(asked, self._predicted(list(asked.values()), read), strict=True))
        return [found.get(id(row), row) for row in rows]

    def _predicted(self, asked: Sequence[_Asked], read: Read | None) -> Iterator[Tagged]:
        views = []
        for each in asked:
            context = "" if read is None or self.reader is None else self.reader.words(read, each.post)
            views.append(View(each.row.id, each.post.tokens, each.post.labels, context, each.post.images))
        alone = list(self.tagger.predict(views, self._batch_size, with_context=False))
        if read is not None and self.tagger.reads_visual:
            self.tagger.show(_visuals(read))
        shown = [view for view in views if view.context or (view.images and self.tagger.reads_visual)]
        seen = dict(zip(map(id, shown), self.tagger.predict(shown, self._batch_size), strict=True))
        for each, view, prediction in zip(asked, views, alone, strict=True):
            both = [seen.get(id(view), prediction), prediction]
            if each.row.text is not None:
                both = [with_offsets(one, each.row.starts) for one in both]
            post = replace(each.post, id=each.row.id)
            pictures, notes = _pictures(each.post, read)
            yield Tagged(post, each.row.text, both[0], both[1], view.context, pictures, notes)


_NO_FOLDER = "the folder of the pictures was not named"


def _settings(params: str | Path | Params | None) -> Params | None:
    if params is None or isinstance(params, Params):
        return params
    settings = settings_of.load(params)
    folder = Path(params).absolute().parent
    if folder == Path.cwd():
        return settings
    sections = {}
    for kind in KINDS:
        section = getattr(settings, kind)
        sections[kind] = type(section)(**anchored(section.model_dump(), folder))
    return settings.model_copy(update=sections)


def _visuals(read: Read) -> Visuals:
    features, objects = read.folder / "features", read.folder / "objects.jsonl"
    return Visuals.open(features if features.exists() else None, objects if "objects" in read.contexts else None)


def _pictures(post: Post, read: Read | None) -> tuple[tuple[SeenPicture, ...], dict[str, Context]]:
    if read is None:
        missing = (ImageRow(image, status="missing", error=_NO_FOLDER) for image in post.images)
        return tuple(map(SeenPicture, missing)), {}
    pictures = []
    for image in post.images:
        found = {kind: rows[image] for kind, rows in read.contexts.items() if kind not in POST_KINDS and image in rows}
        pictures.append(SeenPicture(read.rows[image], found))
    notes = {kind: read.contexts[kind][post.id] for kind in POST_KINDS if post.id in read.contexts.get(kind, {})}
    return tuple(pictures), notes


def _warn_of_other_readers(folder: Path, settings: Params) -> None:
    """Say so where the tagger was trained on what other extractors read than those of params."""
    if not (folder / facts.FILE).exists():
        return
    known: Mapping[str, str] = facts.read(folder).get("contexts") or {}
    now = sources(settings).contexts
    if known and known != now:
        differ = ", ".join(
            f"{kind} by {known.get(kind, 'nothing')}, and params have {now.get(kind, 'nothing')}"
            for kind in TEXT_KINDS
            if known.get(kind) != now.get(kind)
        )
        print(f"warning: {folder} was trained with {differ}", file=sys.stderr)


def line(found: Tagged | Row) -> str:
    """What was found, or what is wrong with a row, as a line of JSON."""
    if isinstance(found, Row):
        return json.dumps({"id": found.id, "error": found.error}, ensure_ascii=False)
    return records.as_json(found.as_row())
