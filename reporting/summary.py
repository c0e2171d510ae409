"""The run in tables: the data set and what is broken in it, extractors, settings, times; and what is missing.

Figures are those that the stages wrote down, counted here where nobody else needs the count.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.core.files import portable
from pipeline.core.kinds import KINDS, PICTURE_KINDS, POST_KINDS, TEXT_KINDS
from pipeline.core.records import Context
from pipeline.core.runs import Change, Machine, RunRecord
from pipeline.core.store import digest
from pipeline.corpus.report import described
from pipeline.settings.params import SPLITS, PostSplit
from pipeline.settings.section import changed
from reporting.sources import STAGES, Results

LISTED = 500
"""Pictures, and posts, without a result that are listed one by one; beyond that they are only counted."""

NO_PICTURE = "no picture named"


@dataclass(frozen=True)
class SplitRow:
    """One split of the data set; entities by type, as conlleval reads them, and in all as either does."""

    split: PostSplit
    counts: dict[str, Any]
    types: list[int]
    pictures: dict[str, int]


OFF = "off"
"""What the report calls a kind that is switched off."""


@dataclass(frozen=True)
class Broken:
    """A picture or post without a result: of which stage (`images`, or an extractor's), its status, what was said."""

    name: str
    stage: str
    status: str
    error: str


@dataclass(frozen=True)
class ExtractorRow:
    """What read one kind of thing off pictures or posts, and how much it found; without a fingerprint where it looks up
    what others have read."""

    kind: str
    name: str
    used: bool
    fingerprint: str | None
    details: str
    about: str
    read: int
    with_items: int
    items: int
    failed: int


@dataclass(frozen=True)
class TimeRow:
    """How long a stage took, and for how much."""

    stage: str
    seconds: float
    items: int | None
    unit: str
    rate: float | None
    note: str


@dataclass(frozen=True)
class Summary:
    """The section "The run"."""

    name: str
    missing: list[str]
    types: list[str]
    splits: list[SplitRow]
    statuses: list[str]
    oddities: list[str]
    broken: list[Broken]
    broken_total: int
    broken_posts: list[Broken]
    broken_posts_total: int
    extractors: list[ExtractorRow]
    changes: list[Change]
    seeds: list[tuple[str, int, str]]
    times: list[TimeRow]
    total_seconds: float
    machines: list[str]
    finished: str
    training: RunRecord | None


def summarise(results: Results, types: list[str]) -> Summary:
    """Everything that the section shows."""
    broken = sorted(_broken(results), key=lambda row: (row.stage != "images", row.stage, row.status, row.name))
    posts = sorted(_broken_posts(results), key=lambda row: (row.stage, row.status, row.name))
    shown: list[PostSplit] = [*SPLITS, "unlabelled"] if results.posts["unlabelled"] else [*SPLITS]
    splits = [_split_row(results, split, types) for split in shown]
    statuses = sorted({status for row in splits for status in row.pictures}, key=lambda name: (name != "ok", name))
    return Summary(
        name=portable(results.settings.data.root),
        missing=list(_missing(results)),
        types=types,
        splits=splits,
        statuses=statuses,
        oddities=list(_oddities(results)),
        broken=broken[:LISTED],
        broken_total=len(broken),
        broken_posts=posts[:LISTED],
        broken_posts_total=len(posts),
        extractors=[_extractor_row(results, kind) for kind in _read_kinds(results)],
        changes=list(_changes(results)),
        seeds=list(_seeds(results)),
        times=[_time_row(run) for run in results.runs.values()],
        total_seconds=sum(run.seconds for run in results.runs.values()),
        machines=list(dict.fromkeys(_machine(run.machine) for run in results.runs.values())),
        finished=max((run.finished for run in results.runs.values()), default=""),
        training=results.runs.get("train"),
    )


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: "1 post", "2,000 posts"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _split_row(results: Results, split: PostSplit, types: list[str]) -> SplitRow:
    counts = results.report["splits"][split]
    pictures = Counter(
        results.images[image].status if image and results.settings.data.images is not None else NO_PICTURE
        for post in results.posts[split]
        for image in post.images or [""]
    )
    return SplitRow(split, counts, [counts["entities"]["conlleval"].get(name, 0) for name in types], dict(pictures))


def _broken(results: Results) -> Iterator[Broken]:
    for row in results.images.values():
        if row.status != "ok" and results.settings.data.images is not None:
            yield Broken(row.image, "images", row.status, row.error or "")
    for kind, rows in results.contexts.items():
        for context in rows.values():
            manifest = results.images.get(context.name)
            if context.status != "ok" and manifest is not None and manifest.status == "ok":
                yield Broken(context.name, kind, context.status, context.error or "")


def _broken_posts(results: Results) -> Iterator[Broken]:
    for kind, rows in results.notes.items():
        for context in rows.values():
            if context.status != "ok":
                yield Broken(context.name, kind, context.status, context.error or "")


def _missing(results: Results) -> Iterator[str]:
    """What a reader might look for and not find, and why."""
    settings, n_posts = results.settings, sum(map(len, results.posts.values()))
    if waiting := [stage for stage in STAGES if stage not in results.runs]:
        yield f"Not run yet: {', '.join(waiting)} (dvc repro)."
    readable = sum(row.status == "ok" for row in results.images.values())
    if settings.data.images is None:
        yield "The data set has no pictures (data.images is null)."
    elif not readable:
        yield (
            f"None of the {len(results.images):,} pictures that posts name can be read; the reasons are in the list of "
            "broken pictures."
        )
    for kind in (name for name in _read_kinds(results) if name in TEXT_KINDS):
        rows = _rows(results, kind)
        if kind not in settings.views.kinds:
            yield f"The contexts leave {kind} out (views.kinds)."
        elif results.runs[kind].extractor is None:
            yield f"Of kind {kind} nothing is read: it is {OFF} ({kind}.extractor is null)."
        elif rows and not any(row.items for row in rows):
            yield f"No {KINDS[kind].about} gave any {kind}."
    with_context = sum(bool(view.context) for views in results.views.values() for view in views.values())
    if n_posts and not with_context and "views" in results.runs:
        yield "No post has a context: cross-modal and text-only views are the same, and so are their scores."
    for split in SPLITS:
        posts = results.posts[split]
        unlabelled = sum(post.labels is None for post in posts)
        if not posts:
            yield f"The {split} split has no posts."
        elif unlabelled:
            yield (
                f"{unlabelled:,} of the {count(len(posts), 'post')} of {split} have no labels"
                + (": no scores, only predictions." if split != "train" and not results.scores.get(split) else ".")
            )
        if split != "train" and posts and split not in results.predictions and "evaluate" in results.runs:
            yield f"There are no predictions for {split}."
    for condition in ("cross_modal", "text_only", "shuffled"):
        if condition not in settings.evaluate.conditions:
            yield f"The run was not scored under {condition} (evaluate.conditions)."
    if not results.curves and "train" in results.runs:
        yield "The training left no learning curves."
    if settings.train.views != "both":
        yield f"The tagger was trained on the {settings.train.views} view alone (train.views)."
    if not settings.evaluate.bootstrap_samples:
        yield "There are no confidence intervals (evaluate.bootstrap_samples is 0)."


def _oddities(results: Results) -> Iterator[str]:
    """What the posts stage found odd and kept."""
    totals: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    for counts in results.report["splits"].values():
        odd.update(counts["odd"])
        totals.update(
            {
                key: counts[key]
                for key in ("orphan_i", "invisible_tokens", "without_image", "several_images", "sharing_an_image")
            }
        )
    if totals["orphan_i"]:
        yield (
            f"{count(totals['orphan_i'], 'orphan I- label')}, which no B- or I- of the type precedes: conlleval "
            "opens an entity there, the strict scorer does not."
        )
    if totals["invisible_tokens"]:
        yield f"{count(totals['invisible_tokens'], 'token')} that cannot be seen; here their codes stand for them."
    if totals["several_images"]:
        yield f"{count(totals['several_images'], 'post')} with more than one picture."
    if totals["sharing_an_image"]:
        yield f"{count(totals['sharing_an_image'], 'post')} with a picture that another post of the split has, too."
    yield from (f"{found}." for found in described(odd))
    for pair, shared in results.report["shared_texts"].items():
        if shared:
            one, other = pair.split("/")
            yield f"{count(shared, 'text')} of {one} {'stands' if shared == 1 else 'stand'} in {other} again."


def _read_kinds(results: Results) -> list[str]:
    """Of the kinds whose stages have run, those that every run has, and those of the others that are on."""
    return [
        name
        for name, kind in KINDS.items()
        if name in results.runs and (not kind.optional or results.runs[name].extractor is not None)
    ]


def _rows(results: Results, kind: str) -> list[Context]:
    """The context records of a kind of context."""
    return list(results.notes[kind].values() if kind in POST_KINDS else results.contexts[kind].values())


def _extractor_row(results: Results, kind: str) -> ExtractorRow:
    run = results.runs[kind]
    fingerprint = run.fingerprint
    if kind in TEXT_KINDS:
        rows = _rows(results, kind)
        read, items = len(rows), [len(row.items) for row in rows if row.items]
        without = kind in PICTURE_KINDS and results.settings.data.images is None and fingerprint is not None
        failed = 0 if without else sum(row.status != "ok" for row in rows)
    else:  # one tensor of each picture that could be read
        items, failed = [1] * ((run.items or 0) + run.from_store), run.failed
        read = len(items) + failed
    return ExtractorRow(
        kind=kind,
        name=run.extractor or OFF,
        used=kind in results.settings.views.kinds,
        fingerprint=None if fingerprint is None else digest(fingerprint),
        details="" if fingerprint is None else json.dumps(fingerprint, indent=2, sort_keys=True),
        about=KINDS[kind].about,
        read=read,
        with_items=len(items),
        items=sum(items),
        failed=failed,
    )


def _changes(results: Results) -> Iterator[Change]:
    settings = results.settings
    for section in ("data", "images"):
        yield from changed(getattr(settings, section), f"{section}.")
    for kind in _read_kinds(results):
        yield Change(f"{kind}.extractor", results.runs[kind].extractor, None, True)
        yield from results.runs[kind].changed
    for section in ("views", "train", "evaluate", "report"):
        yield from changed(getattr(settings, section), f"{section}.")


def _seeds(results: Results) -> Iterator[tuple[str, int, str]]:
    settings = results.settings
    yield "train.seed", settings.train.seed, "initial weights, order of the tweets, dropout"
    yield (
        "evaluate.shuffle_seed",
        settings.evaluate.shuffle_seed,
        "whose context a post gets when shuffled or noised, who has none when missing",
    )
    yield "evaluate.bootstrap_seed", settings.evaluate.bootstrap_seed, "draws behind intervals and paired tests"
    for kind in _read_kinds(results):
        seed = (results.runs[kind].fingerprint or {}).get("seed")
        if isinstance(seed, int):
            yield f"{kind}.{results.runs[kind].extractor}.seed", seed, f"sampling of {kind}"


def _time_row(run: RunRecord) -> TimeRow:
    notes = []
    if run.from_store:
        notes.append(f"{run.from_store:,} more from the store, read by an earlier run")
    if run.failed:
        notes.append(f"{run.failed:,} without a result")
    if run.resumed:
        notes.append("resumed: the time of its last part alone")
    if run.epochs is not None:
        chosen = f"the best was number {run.best_epoch}"
        if run.chosen_by == "last_epoch":
            chosen = "the last is kept: none scored above 0 on dev"
        notes.append(f"{count(run.epochs, 'epoch')}, {chosen}")
    if run.unlabelled is not None:
        notes.append(f"with {count(run.unlabelled['posts'], 'post')} without labels beside them")
    if run.cut is not None:
        notes.append(f"{count(run.cut['posts'], 'very long post')} trained as {run.cut['pieces']:,} pieces")
    rate = run.items / run.seconds if run.items and run.seconds else None
    return TimeRow(run.stage, run.seconds, run.items, run.unit, rate, "; ".join(notes))


def _machine(machine: Machine) -> str:
    gpu = f", {machine.gpu}" if machine.gpu else ", no GPU in use"
    return f"{machine.system}, {count(machine.cores, 'core')}{gpu}, Python {machine.python}"
