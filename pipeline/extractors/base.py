"""What every extractor is: the protocols it follows, the base of its options, and what adapters share.

Nothing heavy is imported here or at the top of an adapter's module: an adapter imports its libraries when it loads
its model, so that params are checked, and a stage whose results are all in the store runs, without them. Finding the
extractor that params name is left to :mod:`pipeline.extractors.registry`.
"""

import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, TypeVar, runtime_checkable

from PIL import Image
from pydantic import BaseModel, ConfigDict

from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest
from pipeline.core.records import Item, Note, Post

if TYPE_CHECKING:
    from pipeline.core.features import Regions

E = TypeVar("E")
_LOADED = "_sightread_loaded"

Result: TypeAlias = "Sequence[Item] | Regions"
"""What was found in a picture, or said of a post: items of a kind in words, or a tensor."""


@dataclass(frozen=True, slots=True)
class Wants:
    """What an extractor of posts is shown besides their text.

    Attributes:
        contexts: kinds whose contexts, in words, it is shown.
        pictures: so many of a post's pictures, at most.
    """

    contexts: frozenset[str] = frozenset()
    pictures: int = 0


@dataclass(frozen=True, slots=True)
class PostInput:
    """A post as an extractor is shown it.

    Attributes:
        id, split: which post it is, for look-ups; a result must not depend on them. `split` is None outside the
            pipeline.
        tokens: of the text.
        contexts: of the kinds that it wants, in words as :mod:`pipeline.contexts.template` renders them, or empty.
        pictures: upright RGB, in the post's order, as many as it wants of those that are readable.
    """

    id: str
    split: str | None
    tokens: Sequence[str]
    contexts: Mapping[str, str]
    pictures: Sequence[Image.Image] = ()

    @property
    def text(self) -> str:
        """The tokens, joined by spaces."""
        return " ".join(self.tokens)


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """A picture, and what to look for in it.

    Attributes:
        picture: upright RGB.
        labels: as :meth:`LabelledExtractor.labels_of` gives them.
    """

    picture: Image.Image
    labels: tuple[str, ...]


class UnavailableError(UserError):
    """What an extractor reads with, such as a server, is gone: no picture or post is the cause.

    The engine stores what those that are already with the extractor still give, and then ends with this error.
    """


@runtime_checkable
class Extractor(Protocol):
    """Reads pictures. What a result depends on, batch size and order aside, is all in the fingerprint.

    Protocols below add to it: :class:`LoadingExtractor`, :class:`PreparingExtractor`, :class:`BucketingExtractor`,
    :class:`MeteredExtractor`, :class:`LabelledExtractor`.
    """

    def fingerprint(self) -> Mapping[str, Any]:
        """Whatever changes the result, as JSON: weights' digest or revision, decoding options, an integer version."""
        ...

    def extract(self, images: Sequence[Image.Image]) -> Sequence[Result]:
        """One list of items for each upright RGB picture: tags and captions best first, lines in reading order."""
        ...


@runtime_checkable
class LabelledExtractor(Protocol):
    """An extractor of pictures that may look for something else in each: for what the posts say that show it.

    Where it does, it is shown each picture as a :class:`LabelledPicture`. What it is shown with a picture need not be
    in the fingerprint.
    """

    def labels_of(self, posts: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
        """What to look for in a picture, given the tokens of the posts that show it; None: the same in all pictures.

        It may be called before anything is loaded.
        """
        ...


@runtime_checkable
class PostExtractor(Protocol):
    """Reads posts, for kinds whose rows are about posts. What a result depends on besides the input that it is shown
    is all in the fingerprint.

    :class:`WantingExtractor` and :class:`TaughtExtractor` add to it, and so do :class:`LoadingExtractor`,
    :class:`PreparingExtractor` and :class:`MeteredExtractor`, with posts in place of pictures.
    """

    def fingerprint(self) -> Mapping[str, Any]:
        """As of :class:`Extractor`."""
        ...

    def extract(self, posts: Sequence[PostInput]) -> Sequence[Sequence[Note]]:
        """One list of notes for each post, best first; empty where there is nothing to say."""
        ...


@runtime_checkable
class WantingExtractor(Protocol):
    """An extractor of posts that is shown more than their text."""

    def wants(self) -> Wants:
        """What it is shown besides; it may be called before anything is loaded."""
        ...


@runtime_checkable
class TaughtExtractor(Protocol):
    """An extractor of posts that also reads the training posts with their labels, such as to cite them."""

    def teach(self, posts: Iterable[Post]) -> None:
        """The posts of the training split, read as they are gone through; called once, before all else.

        What is made of them belongs into the fingerprint.
        """
        ...


@runtime_checkable
class LoadingExtractor(Protocol):
    """An extractor with a model to load; all that ship with one are, a class of the user's own need not be."""

    def load(self) -> None:
        """Load the model. Called once, by one thread, before the first picture, and not where there is none to read.

        ``bucket``, ``prepare`` and ``extract`` are called after it; ``fingerprint`` may be called without it.
        """
        ...


@runtime_checkable
class PreparingExtractor(Protocol):
    """An extractor whose work on single pictures (resizing, say) is done in the decoding threads, ahead of the model.

    ``extract(images)`` equals ``extract_prepared([prepare(image) for image in images])``.
    """

    def prepare(self, image: Any, /) -> Any:
        """One picture, or what the extractor is shown in its place, made ready; called from several threads at once."""
        ...

    def extract_prepared(self, prepared: Sequence[Any]) -> Sequence[Result]:
        """As ``extract``, from what ``prepare`` gave."""
        ...


@runtime_checkable
class BucketingExtractor(Protocol):
    """An extractor that is faster on a batch of like pictures."""

    def bucket(self, width: int, height: int) -> Hashable:
        """Pictures (by size in pixels) with the same value go into batches together."""
        ...


@runtime_checkable
class MeteredExtractor(Protocol):
    """An extractor that has something to add to the summary of a run, such as what its work costs."""

    def used(self) -> str:
        """What its work has taken so far, or what it had no use for, in words; empty where there is nothing to say."""
        ...


@runtime_checkable
class LookupExtractor(Protocol):
    """Reads results that somebody else computed; neither pictures nor the store are touched.

    :class:`ExpectingExtractor` adds to it. A text `source`, where there is one, tells in messages what it reads.
    """

    def lookup(self, subject: Any, /) -> "Result | None":
        """The items of a picture (its name) or a post (:class:`PostInput`), or None where there is no entry for it."""
        ...


@runtime_checkable
class ExpectingExtractor(LookupExtractor, Protocol):
    """One that wants to know all pictures or posts before the first lookup, to see which an entry could be of."""

    def expect(self, subjects: Iterable[Any], /) -> None:
        """All that will be looked up, as it will be; called once, before ``lookup``."""
        ...


AnyExtractor: TypeAlias = Extractor | PostExtractor | LookupExtractor


class Options(BaseModel):
    """Base of an adapter's options: an unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    NO_FILES: ClassVar[frozenset[str]] = frozenset()
    """Options that never name a file, folder or repository that is loaded here, whatever they look like."""

    @property
    def interpreter(self) -> str | None:
        """The separate environment that these options ask for; None: that of the class, if it has one."""
        return None

    def require(self) -> None:
        """Check what the options name (a checkpoint, a program, a file) without loading it.

        Raises:
            UserError: it is not available.
        """


def is_own(cls: type) -> bool:
    """Whether a class is the user's own, and not one that ships."""
    return not cls.__module__.startswith("pipeline.extractors.")


def source_of(cls: type) -> str | None:
    """SHA-256 of the file that a class of the user's own is written in, which changes results: part of the fingerprint.

    None of a class that ships, whose `version` says when its results change; of one that says ``SOURCE_MATTERS =
    False`` and so promises the same; and of one that is in no file.
    """
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file_digest(Path(file)) if file and is_own(cls) and getattr(cls, "SOURCE_MATTERS", True) else None


def fingerprint_of(extractor: Extractor | PostExtractor) -> dict[str, Any]:
    """What the results of an extractor are stored by: its fingerprint, and its source where that matters."""
    source = source_of(type(extractor))
    return {**extractor.fingerprint(), **({} if source is None else {"source": source})}


def load(extractor: E) -> E:
    """Load the extractor's model, if it has one and has not loaded it, and return the extractor."""
    if isinstance(extractor, LoadingExtractor) and not getattr(extractor, _LOADED, False):
        extractor.load()
        with suppress(AttributeError):  # a class of the user's own with __slots__ loads again for every run
            setattr(extractor, _LOADED, True)
    return extractor
