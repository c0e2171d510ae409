"""What became of jobs that were read: results as bytes, failures in words, and how many there are of each."""

from dataclasses import dataclass, field

from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.extractors.base import Result
from pipeline.images.decoding import PictureError


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of jobs; `failures` has the errors of those that gave nothing, by key.

    Of these, the extractor failed on `broken`, lastly on `last`; of the others, `unfit`, a picture cannot be read.
    `count` were read.
    """

    failures: dict[str, str] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)
    count: int = 0
    broken: int = 0
    last: str = ""

    def add(self, other: "Outcome") -> None:
        """Count in what became of others."""
        self.failures |= other.failures
        self.unfit |= other.unfit
        self.count += other.count
        self.broken += other.broken
        self.last = other.last or self.last

    def alone(self) -> "Outcome":
        """The same, of whatever else there is about a reading; another process may be told of it."""
        return Outcome(failures=self.failures, unfit=self.unfit, count=self.count, broken=self.broken, last=self.last)

    def refuse_nothing(self, kind: str) -> None:
        """Stop where the extractor failed on all that it was given, which speaks against it, not the pictures.

        Raises:
            UserError: so it is, on two pictures or more.
        """
        if self.broken > 1 and not self.count:
            raise UserError(
                f"{kind}: the extractor failed on each of the {self.broken} {KINDS[kind].about}s that it was "
                f"given, lastly on {self.last}. Nothing was read; fix that, or choose another extractor "
                f"or other options below {kind} in params.yaml"
            )


def encoded(kind: str, extractor: object, result: Result) -> bytes:
    """What was found in a picture, as the store keeps it.

    Raises:
        ValueError: a number is not finite, or a text contains an unpaired surrogate.
        UserError: `result` is none of this kind.
    """
    try:
        return KINDS[kind].dump(result)
    except TypeError as error:
        raise UserError(f"{kind}: {type(extractor).__name__} gave {error}") from None


def described(error: BaseException) -> str:
    """What a row says of an error, on one line that can be written as UTF-8."""
    message = " ".join(str(error).split()).encode(errors="backslashreplace").decode()
    if isinstance(error, PictureError):
        return message
    return f"{type(error).__name__}: {message}"[:500] if message else type(error).__name__
