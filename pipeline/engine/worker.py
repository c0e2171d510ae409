"""What a worker of a cluster does: make its own extractor, see that it is the driver's, read a shard or some batches.

Where several kinds are to be read, it does so for each, and decodes a picture once for all. It knows nothing of the
cluster. A worker that dies says nothing; what is made of that is left to :mod:`pipeline.engine.ray`.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.results import Kept, Results
from pipeline.core.store import digest
from pipeline.engine.inputs import Shown
from pipeline.engine.local import Reading
from pipeline.engine.one_pass import Together
from pipeline.engine.outcome import Outcome
from pipeline.engine.plan import Job, Lacking
from pipeline.engine.task import enter, timed
from pipeline.extractors.base import Extractor, LookupExtractor, PostExtractor, UnavailableError, fingerprint_of
from pipeline.extractors.registry import choose
from pipeline.settings.params import EXECUTION


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do with every shard; it can be pickled, and holds no secret.

    Attributes:
        kind: what the extractor finds.
        section: the section of params that names the extractor, and its options.
        execution: the section `execution`.
        folder: the project's on every node: where relative paths of params lead.
        fingerprint: of the driver's extractor.
        parts: where results go, or None: they are given back.
        max_seconds: without progress, after which the worker is killed.
    """

    kind: str
    section: dict[str, Any]
    execution: dict[str, Any]
    folder: str
    fingerprint: dict[str, Any]
    parts: str | None
    max_seconds: float


@dataclass(frozen=True, slots=True)
class Unit:
    """What one task reads: the jobs of a shard, or of these some batches.

    Attributes:
        shard: its name.
        jobs: of the shard that lack a result.
        shown: what they show, and `sound` as well.
        sound: jobs that have been read before, to tell a broken extractor by.
        only: the batches to read; empty: all that the jobs make.
    """

    shard: str
    jobs: list[Job]
    shown: Shown
    sound: list[Job]
    only: list[list[Job]] = field(default_factory=list)


@dataclass(slots=True)
class Answer:
    """What became of a unit, and on which node; `error` and `unavailable` where that was the end of it, as a UserError
    says it.

    `along` has what became of units of other kinds.
    """

    outcome: Outcome = field(default_factory=Outcome)
    values: dict[str, bytes] = field(default_factory=dict)
    error: str = ""
    unavailable: bool = False
    node: str = ""
    along: dict[str, "Answer"] = field(default_factory=dict)


_ready: dict[str, Extractor | PostExtractor] = {}  # by what makes them: loaded once in a worker's life


@dataclass(slots=True)
class _Begun:
    """What reads a unit, where that goes, and what it has put there where that is to be given back."""

    reading: Reading
    lacking: Lacking
    kept: Kept


def read(order: Order, unit: Unit, *along: tuple[Order, Unit]) -> Answer:
    """Read a unit, and units of other kinds and the same shard along with it.

    What was read before an error is in the answer, too; another kind's error is in its own, and ends nothing else.
    """
    begun: dict[str, _Begun] = {}
    errors: dict[str, str] = {}
    ended = None
    with timed(order.max_seconds) as progressed:
        try:
            own = begun[order.kind] = _begun(order, unit, progressed)
            if along:
                _read_along(own, along, progressed, begun, errors)
            else:
                own.reading.read([own.lacking], only=unit.only)
        except UserError as error:
            ended = error
    answers = {one.kind: Answer() for one in (order, *(theirs for theirs, _ in along))}
    for kind, one in begun.items():
        answers[kind] = Answer(one.reading.alone(), one.kept.values, node=platform.node())
    for kind, why in errors.items():
        answers[kind].error = why
    answer = answers.pop(order.kind)
    answer.along = answers
    if ended is not None:
        answer.error, answer.unavailable = str(ended), isinstance(ended, UnavailableError)
    return answer


def _read_along(
    own: _Begun,
    along: Sequence[tuple[Order, Unit]],
    progressed: Callable[[], None],
    begun: dict[str, _Begun],
    errors: dict[str, str],
) -> None:
    """Read units of other kinds along with the own one's; what is begun of each, and their errors, are put there.

    Raises:
        UserError: of the own kind.
    """
    together = Together(own.reading, errors.setdefault)
    for order, unit in along:
        theirs = together.attempt(order.kind, partial(_begun, order, unit, progressed))
        if theirs is not None:
            begun[order.kind], together.others[order.kind] = theirs, theirs.reading
    together.read([{kind: (one.reading, one.lacking) for kind, one in begun.items()}], own.reading.workers)


def _begun(order: Order, unit: Unit, progressed: Callable[[], None]) -> _Begun:
    """What reads a unit; raises UserError as of :func:`planned`."""
    reading, kept = _reading(order, unit, progressed), Kept()
    results: Results = kept if order.parts is None else Parts(order.parts).one(reading.key, unit.shard)
    return _Begun(reading, Lacking(unit.shard, results, unit.jobs), kept)


def planned(order: Order, unit: Unit) -> list[list[Job]]:
    """The batches that the jobs of a unit make.

    Raises:
        UserError: the extractor cannot be made or loaded, or is not the driver's.
    """
    with timed(order.max_seconds) as progressed:
        return list(_reading(order, unit, progressed).batches(unit.jobs))


def _reading(order: Order, unit: Unit, progressed: Callable[[], None]) -> Reading:
    """What reads, with its extractor loaded.

    Raises:
        UserError: as of :func:`planned`.
    """
    execution = EXECUTION.model_validate(order.execution)
    name = digest(asdict(order))
    extractor = _ready.get(name) or _made(order)
    reading = Reading(
        order.kind,
        extractor,
        lambda _jobs: unit.shown,
        lambda: unit.sound,
        digest(order.fingerprint),
        getattr(execution.batch_size, order.kind),
        execution.decode_workers,
        progressed=progressed,
    )
    if name not in _ready:
        reading.load_extractor()
        _ready[name] = extractor
    progressed()
    return reading


def _made(order: Order) -> Extractor | PostExtractor:
    """The extractor, where it is the driver's.

    Raises:
        UserError: it cannot be made here, or another checkpoint, program or package makes it another one.
    """
    here = platform.node()
    enter(order.folder)
    choice = choose(order.kind, order.section, "params.yaml")
    try:
        choice.require()
        extractor = choice.create(EXECUTION.model_validate(order.execution))
        assert not isinstance(extractor, LookupExtractor)  # that is no work for a cluster
        mine = fingerprint_of(extractor)
    except UserError as error:
        raise UserError(f"node {here}: {error}") from None
    differ = sorted(
        key for key in {*mine, *order.fingerprint} if _text(mine.get(key)) != _text(order.fingerprint.get(key))
    )
    if differ:
        found = ", ".join(f"{key} {_text(mine.get(key))} for {_text(order.fingerprint.get(key))}" for key in differ)
        raise UserError(
            f"{order.kind}: node {here} reads with another extractor than this machine: {found[:500]}. Put the same "
            "checkpoints, packages and programs on all of them"
        )
    return extractor


def _text(value: Any) -> str:
    return digest({"": value})[:12] if isinstance(value, (dict, list)) else repr(value)
