"""What every extractor is: the protocols it follows, the base of its options, and what adapters share.

Nothing heavy is imported here or at the top of an adapter's module: an adapter imports its libraries when it loads
its model, so that params are checked, and a stage whose results are all in the store runs, without them. Finding the
extractor that params name is left to :mod:`pipeline.extractors.registry`.
"""

import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar, overload, runtime_checkable

from PIL import Image
from pydantic import BaseModel, ConfigDict

from pipeline.core.records import Item

T = TypeVar("T")


@runtime_checkable
class Extractor(Protocol):
    """Reads pictures. What a result depends on, batch size and order aside, is all in the fingerprint."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Whatever changes the result, as JSON: weights' digest or revision, decoding options, an integer version."""
        ...

    def extract(self, images: Sequence[Image.Image]) -> Sequence[Sequence[Item]]:
        """One list of items for each upright RGB picture: tags and captions best first, lines in reading order."""
        ...


@runtime_checkable
class PreparingExtractor(Extractor, Protocol):
    """An extractor whose work on single pictures (resizing, say) is done in the decoding threads, ahead of the model.

    ``extract(images)`` equals ``extract_prepared([prepare(image) for image in images])``.
    """

    def prepare(self, image: Image.Image) -> Any:
        """One picture made ready; called from several threads at once."""
        ...

    def extract_prepared(self, prepared: Sequence[Any]) -> Sequence[Sequence[Item]]:
        """As ``extract``, from what ``prepare`` gave."""
        ...


@runtime_checkable
class BucketingExtractor(Extractor, Protocol):
    """An extractor that is faster on a batch of like pictures."""

    def bucket(self, width: int, height: int) -> Hashable:
        """Pictures (by size in pixels) with the same value go into batches together."""
        ...


@runtime_checkable
class LookupExtractor(Protocol):
    """Reads results that somebody else computed; neither pictures nor the store are touched.

    A text `source`, where there is one, tells in messages what it reads.
    """

    def lookup(self, image_name: str) -> Sequence[Item] | None:
        """The picture's items, or None where there is no entry for it."""
        ...


class Options(BaseModel):
    """Base of an adapter's options: an unknown key is an error, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def require(self) -> None:
        """Check what the options name (a checkpoint, a program, a file) without loading it.

        Raises:
            UserError: it is not there.
        """


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_LOADING = threading.RLock()  # one for all: while transformers loads a model, it changes torch's default dtype


class once(Generic[T]):
    """A property that is computed when first asked for, by one thread while all others wait.

    ``functools.cached_property`` has no lock from Python 3.12 on: several threads would load a model each.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Self | T:
        if instance is None:
            return self
        with _LOADING:
            kept = vars(instance)  # from then on Python looks there first, and comes here no more
            if self._name not in kept:
                kept[self._name] = self._compute(instance)
            found: T = kept[self._name]
            return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, the machine's or the device's."""
    message = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in message
        or "can't allocate memory" in message
    )
