"""What a stage writes of its own run, as types: where it ran, how long, on what, and with which settings.

They are records like those that stages pass to each other, read and written by :mod:`pipeline.core.records`.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from pipeline.core.records import STRICT


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a stage ran; `gpu` is None where none was used."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    system: str
    python: str
    cores: int
    gpu: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is not its default; `default` is None too where there is none (`required`)."""

    key: str
    value: Any
    default: Any
    required: bool


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a stage writes of its own run to metrics/runs/{stage}.json, for the report.

    Attributes:
        seconds: of the whole stage, on the clock.
        finished: time of day, ISO 8601, UTC.
        items: how many of `unit` were worked on; None where that says nothing.
        extractor, fingerprint, from_store, failed, changed: of an extraction stage. `extractor` is None where
            the kind is switched off, `fingerprint` where it looks up what others computed.
        tagger, evaluated: of an evaluation: digest of the tagger that was scored, and the section `evaluate` of params.
        resumed, encoder, epochs, best_epoch, chosen_by, dev, cut (`posts` trained as `pieces`), relation (`posts` that
            it was learned from), unlabelled (`posts` that the alignment alone learned from): of a training.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    stage: str
    seconds: float
    finished: str
    machine: Machine
    items: int | None = None
    unit: str = ""
    extractor: str | None = None
    fingerprint: dict[str, Any] | None = None
    from_store: int = 0
    failed: int = 0
    changed: list[Change] = field(default_factory=list)
    tagger: str | None = None
    evaluated: dict[str, Any] | None = None
    resumed: bool = False
    encoder: str | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    chosen_by: Literal["dev_f1", "last_epoch"] | None = None
    dev: dict[str, float] | None = None
    cut: dict[str, int] | None = None
    relation: dict[str, int] | None = None
    unlabelled: dict[str, int] | None = None
