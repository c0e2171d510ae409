"""What an extractor is shown, row by row: the pictures of a manifest, or posts with what they are shown with.

One row of the output is written for each row here. What has been read before, and in which order the rest is, is left
to :mod:`pipeline.engine.plan`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.files import read_jsonl
from pipeline.core.kinds import Row, Subject
from pipeline.core.records import ImageRow, Post
from pipeline.core.store import digest
from pipeline.engine.plan import Job
from pipeline.engine.repeated import Repeated
from pipeline.extractors.base import LabelledPicture, PostInput, Wants
from pipeline.images import pictures as images
from pipeline.images.decoding import PictureError
from pipeline.settings.params import ImagesParams


class Shown(Protocol):
    """What some jobs show an extractor; it can be pickled, for a worker to read them."""

    about: ClassVar[Subject]

    def require(self) -> None:
        """See that what the jobs name can be read at all; called before the first is.

        Raises:
            UserError: it cannot.
        """
        ...

    def load(self, job: Job) -> Any:
        """What the extractor is shown; called from several threads at once.

        Raises:
            PictureError: a picture cannot be read, or has changed.
        """
        ...


class Inputs(Protocol):
    """What is read. A row has `status`, `error` and the fields that say what it is about; it is read where it is ok."""

    about: ClassVar[Subject]
    hint: ClassVar[str]
    """What to check where others' results cover none of it, for messages."""

    def rows(self) -> Iterator[Row]:
        """All rows in order, from the first one at every call; raises UserError where one is malformed."""
        ...

    def job(self, row: Row) -> Job:
        """What there is to read in a row that is ok; its key is a digest of all that the extractor is shown."""
        ...

    def of(self, jobs: Sequence[Job]) -> Shown:
        """What these jobs show."""
        ...

    def repeated(self) -> Repeated:
        """The keys that several jobs have."""
        ...

    def subject(self, row: Row) -> Any:
        """What an extractor that looks up others' results is asked with."""
        ...


class ShownPictures:
    """Pictures, upright RGB; `copies` are other names of theirs by SHA-256, `labels` what to look for in them."""

    about: ClassVar[Subject] = "picture"

    def __init__(
        self,
        pictures: images.Pictures | None,
        limits: ImagesParams,
        copies: Mapping[str, list[str]],
        labels: Mapping[str, tuple[str, ...]] | None,
    ) -> None:
        self._pictures, self._limits, self._copies, self._labels = pictures, limits, copies, labels

    def require(self) -> None:
        """See that there is a place of pictures; raises UserError where there is none."""
        if self._pictures is None:
            raise UserError("the manifest has readable pictures, but data.images names no folder; run dvc repro images")

    def load(self, job: Job) -> Any:
        """The picture of a job, or a copy of it under another name where that one is gone or has changed.

        Raises:
            PictureError: of the job's own picture, where no copy can be read either.
        """
        return self.with_labels(job, self.picture(job))

    def with_labels(self, job: Job, picture: Image.Image) -> Any:
        """What the extractor is shown of a picture that has been decoded."""
        return picture if self._labels is None else LabelledPicture(picture, self._labels.get(job.name, ()))

    def picture(self, job: Job) -> Image.Image:
        """The picture alone; raises as :meth:`load`."""
        assert self._pictures is not None  # require() has seen to it
        try:
            return images.load(self._pictures, job.name, job.sha256, self._limits)
        except PictureError as error:
            for copy in self._copies.get(job.sha256, []):
                if copy == job.name:
                    continue
                with suppress(PictureError):
                    return images.load(self._pictures, copy, job.sha256, self._limits)
            raise error from None


class PictureInputs:
    """The pictures of a manifest: upright RGB, by the SHA-256 of their bytes; looked up by their names.

    Args:
        manifest: data/images.jsonl, or its rows.
        pictures: where they lie; None for a data set without.
        limits: on each, as in the manifest.
    """

    about: ClassVar[Subject] = "picture"
    hint: ClassVar[str] = "data.image_name gives its names"

    def __init__(
        self,
        manifest: Path | Iterable[ImageRow | Mapping[str, Any]],
        pictures: images.Pictures | None,
        limits: ImagesParams,
    ) -> None:
        self._pictures, self._limits = pictures, limits
        self._manifest: Path | list[Mapping[str, Any]]
        if isinstance(manifest, Path):
            self._manifest = manifest
        else:
            rows = [asdict(row) if isinstance(row, ImageRow) else row for row in manifest]
            self._manifest = sorted(rows, key=lambda row: str(row.get("image")))

    def rows(self) -> Iterator[Row]:
        """The manifest's rows.

        Raises:
            UserError: as they are gone through: the file or a row is malformed, or they are not sorted by image.
        """
        if isinstance(self._manifest, Path):
            return _checked(read_jsonl(self._manifest), str(self._manifest))
        return _checked(self._manifest, "manifest")

    def job(self, row: Row) -> Job:
        """The picture of a row."""
        return Job(row["image"], row["sha256"], row["width"], row["height"], row["sha256"])

    def of(self, jobs: Sequence[Job]) -> Shown:
        """The pictures of these jobs, and where there are copies of them."""
        return self._shown(jobs, None)

    def repeated(self) -> Repeated:
        """The pictures of which there are copies."""
        return self._twins

    def subject(self, row: Row) -> str:
        """The picture's name."""
        name: str = row["image"]
        return name

    def _shown(self, jobs: Sequence[Job], labels: Mapping[str, tuple[str, ...]] | None) -> Shown:
        copies = self._twins.names({job.sha256 for job in jobs})
        names = [*(job.name for job in jobs), *chain.from_iterable(copies.values())]
        return ShownPictures(images.of(self._pictures, names), self._limits, copies, labels)

    @cached_property
    def _twins(self) -> Repeated:
        rows = enumerate(self.rows())
        return Repeated((row["sha256"], number, row["image"]) for number, row in rows if row["status"] == "ok")


class LabelledPictures(PictureInputs):
    """The pictures of a manifest, each with labels of its own, by the digest of both.

    Args:
        manifest, pictures, limits: as of :class:`PictureInputs`.
        labels: of the pictures, by name; a picture without is shown with none.
    """

    def __init__(
        self,
        manifest: Path | Iterable[ImageRow | Mapping[str, Any]],
        pictures: images.Pictures | None,
        limits: ImagesParams,
        labels: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__(manifest, pictures, limits)
        self._labels = labels

    def job(self, row: Row) -> Job:
        """The picture of a row with its labels."""
        own = super().job(row)
        return own._replace(key=digest({"sha256": own.sha256, "labels": self._labels.get(own.name, ())}))

    def of(self, jobs: Sequence[Job]) -> Shown:
        """As of :class:`PictureInputs`, with their labels."""
        return self._shown(jobs, {job.name: self._labels.get(job.name, ()) for job in jobs})

    def repeated(self) -> Repeated:
        """The pictures of which there are copies with the same labels."""
        return _repeated(self)


class _ShownPost(NamedTuple):
    """What an extractor is shown of a post: its text, contexts in words, and its readable pictures."""

    post: Post
    split: str | None
    contexts: dict[str, str]
    pictures: list[ImageRow]

    def key(self) -> str:
        pictures = [picture.sha256 for picture in self.pictures]
        return digest({"tokens": self.post.tokens, "contexts": self.contexts, "pictures": pictures})

    def input(self, pictures: Sequence[Image.Image] = ()) -> PostInput:
        return PostInput(self.post.id, self.split, self.post.tokens, self.contexts, pictures)


class _ShownPosts:
    """Posts by their jobs' keys, with their pictures."""

    about: ClassVar[Subject] = "post"

    def __init__(self, posts: Mapping[str, _ShownPost], pictures: images.Pictures | None, limits: ImagesParams) -> None:
        self._posts, self._pictures, self._limits = posts, pictures, limits

    def require(self) -> None:
        """Posts are here already; that their pictures can be read is seen when they are."""

    def load(self, job: Job) -> PostInput:
        """The post with its pictures, decoded.

        Raises:
            PictureError: one of them cannot be read any more.
        """
        shown, decoded = self._posts[job.key], []
        for row in shown.pictures:
            if self._pictures is None:
                raise PictureError("missing", f"{row.image}: data.images names no folder; run dvc repro images")
            try:
                decoded.append(images.load(self._pictures, row.image, str(row.sha256), self._limits))
            except PictureError as error:
                raise PictureError(error.status, f"{row.image}: {error}") from None
        return shown.input(decoded)


class PostInputs:
    """Posts, by the digest of all that the extractor is shown of each; looked up as inputs without pictures.

    Two posts of which it is shown the same are read once. A picture that is unfit is not shown.

    Args:
        posts: each with its split, or None; an id is given once in each.
        wants: what the extractor is shown besides the text.
        contexts: of the posts, in the same order: kind → in words. Kinds that it does not want are left out.
        manifest: the rows of their pictures.
        pictures: where they lie; None for a data set without.
        limits: on each, as in the manifest.
    """

    about: ClassVar[Subject] = "post"
    hint: ClassVar[str] = "its ids or texts are those of the posts"

    def __init__(
        self,
        posts: Sequence[tuple[str | None, Post]],
        wants: Wants,
        contexts: Iterable[Mapping[str, str]],
        manifest: Iterable[ImageRow],
        pictures: images.Pictures | None,
        limits: ImagesParams,
    ) -> None:
        self._pictures, self._limits = pictures, limits
        readable = {row.image: row for row in manifest if row.status == "ok"} if wants.pictures else {}
        self._shown: dict[str, _ShownPost] = {}
        self._keys: dict[tuple[str, str | None], tuple[str, _ShownPost]] = {}
        for (split, post), words in zip(posts, contexts, strict=True):
            seen = [readable[name] for name in post.images if name in readable][: wants.pictures]
            shown = _ShownPost(post, split, {kind: words.get(kind, "") for kind in sorted(wants.contexts)}, seen)
            self._shown.setdefault(key := shown.key(), shown)
            self._keys[post.id, split] = key, shown
        self._order = sorted(self._keys, key=lambda each: (each[0], each[1] or ""))

    def rows(self) -> Iterator[Row]:
        """A row for each post, sorted by id and split."""
        return ({"id": name, "split": split, "status": "ok", "error": None} for name, split in self._order)

    def job(self, row: Row) -> Job:
        """The post of a row; its size is that of its pictures, as a strip of so many pixels."""
        key, shown = self._keys[row["id"], row["split"]]
        return Job(row["id"], key, sum((each.width or 0) * (each.height or 0) for each in shown.pictures), 1)

    def of(self, jobs: Sequence[Job]) -> Shown:
        """The posts of these jobs."""
        posts = {job.key: self._shown[job.key] for job in jobs}
        names = [picture.image for shown in posts.values() for picture in shown.pictures]
        return _ShownPosts(posts, images.of(self._pictures, names), self._limits)

    def repeated(self) -> Repeated:
        """The posts of which others show the same."""
        return _repeated(self)

    def subject(self, row: Row) -> PostInput:
        """The post, without its pictures."""
        return self._keys[row["id"], row["split"]][1].input()


_FIELDS = dict.fromkeys(("image", "sha256", "width", "height", "format", "status", "error"))
"""A row with these keys, and not ones of its own, takes two thirds of the memory."""


def _checked(rows: Iterable[Mapping[str, Any]], source: str) -> Iterator[Row]:
    previous = ""
    for number, row in enumerate(rows, start=1):
        try:
            name, status, sha256 = row["image"], row["status"], row["sha256"]
            if status == "ok":
                row["width"] * row["height"], bytes.fromhex(sha256)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{source}:{number}: not a row of the image manifest; run dvc repro images") from None
        if name <= previous and number > 1:
            raise UserError(
                f"{source}:{number}: {name!r} after {previous!r}; expected rows sorted by image, each "
                "once; run dvc repro images"
            )
        previous = name
        yield {**_FIELDS, **row}


def _repeated(inputs: Inputs) -> Repeated:
    rows = ((number, inputs.job(row)) for number, row in enumerate(inputs.rows()) if row["status"] == "ok")
    return Repeated((job.key, number, job.name) for number, job in rows)
