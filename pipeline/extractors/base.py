"""What every extractor is: the protocols it follows, the base of its options, and what adapters share.

Nothing heavy is imported here or at the top of an adapter's module: an adapter imports its libraries when it loads
its model, so that params are checked, and a stage whose results are all in the store runs, without them. Finding the
extractor that params name is left to :mod:`pipeline.extractors.registry`.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from PIL import Image
from pydantic import BaseModel, ConfigDict

from pipeline.core.errors import UserError
from pipeline.core.records import Item

if TYPE_CHECKING:
    from pipeline.core.features import Regions

Result: TypeAlias = "Sequence[Item] | Regions"
"""What was found in a picture: items of a kind in words, or a tensor."""


class UnavailableError(UserError):
    """What an extractor reads with, such as a server, is gone: no picture is the cause.

    The engine stores what the pictures that are already with the extractor still give, and then ends with this error.
    """


@runtime_checkable
class Extractor(Protocol):
    """Reads pictures. What a result depends on, batch size and order aside, is all in the fingerprint.

    Protocols below add to it: :class:`LoadingExtractor`, :class:`PreparingExtractor`, :class:`BucketingExtractor`,
    :class:`MeteredExtractor`.
    """

    def fingerprint(self) -> Mapping[str, Any]:
        """Whatever changes the result, as JSON: weights' digest or revision, decoding options, an integer version."""
        ...

    def extract(self, images: Sequence[Image.Image]) -> Sequence[Result]:
        """One list of items for each upright RGB picture: tags and captions best first, lines in reading order."""
        ...


@runtime_checkable
class LoadingExtractor(Extractor, Protocol):
    """An extractor with a model to load; all that ship with one are, a class of the user's own need not be."""

    def load(self) -> None:
        """Load the model. Called once, by one thread, before the first picture, and not where there is none to read.

        ``bucket``, ``prepare`` and ``extract`` are called after it; ``fingerprint`` may be called without it.
        """
        ...


@runtime_checkable
class PreparingExtractor(Extractor, Protocol):
    """An extractor whose work on single pictures (resizing, say) is done in the decoding threads, ahead of the model.

    ``extract(images)`` equals ``extract_prepared([prepare(image) for image in images])``.
    """

    def prepare(self, image: Image.Image) -> Any:
        """One picture made ready; called from several threads at once."""
        ...

    def extract_prepared(self, prepared: Sequence[Any]) -> Sequence[Result]:
        """As ``extract``, from what ``prepare`` gave."""
        ...


@runtime_checkable
class BucketingExtractor(Extractor, Protocol):
    """An extractor that is faster on a batch of like pictures."""

    def bucket(self, width: int, height: int) -> Hashable:
        """Pictures (by size in pixels) with the same value go into batches together."""
        ...


@runtime_checkable
class MeteredExtractor(Extractor, Protocol):
    """An extractor whose work costs something that the summary of a run should say."""

    def used(self) -> str:
        """What its work has taken so far, in words; empty where it did none."""
        ...


@runtime_checkable
class LookupExtractor(Protocol):
    """Reads results that somebody else computed; neither pictures nor the store are touched.

    :class:`ExpectingExtractor` adds to it. A text `source`, where there is one, tells in messages what it reads.
    """

    def lookup(self, image_name: str) -> "Result | None":
        """The picture's items, or None where there is no entry for it."""
        ...


@runtime_checkable
class ExpectingExtractor(LookupExtractor, Protocol):
    """One that wants to know all pictures before the first lookup, to see which of them an entry could be meant for."""

    def expect(self, names: Iterable[str]) -> None:
        """The names of the data set's pictures; called once, before ``lookup``."""
        ...


class Options(BaseModel):
    """Base of an adapter's options: an unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    NO_FILES: ClassVar[frozenset[str]] = frozenset()
    """Options that never name a file, folder or repository that is loaded here, whatever they look like."""

    def require(self) -> None:
        """Check what the options name (a checkpoint, a program, a file) without loading it.

        Raises:
            UserError: it is not available.
        """


def load(extractor: Extractor) -> Extractor:
    """Load the extractor's model, if it has one, and return the extractor."""
    if isinstance(extractor, LoadingExtractor):
        extractor.load()
    return extractor
