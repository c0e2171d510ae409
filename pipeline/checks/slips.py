"""What is allowed and yet looks like a beginner's slip: settings made for the sample, with data or models that are not.

The sample is 1,010 drawn pictures with small checkpoints trained on them. What suits those suits little else.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS, POST_KINDS, TEXT_KINDS
from pipeline.extractors.base import Wants
from pipeline.extractors.registry import choose
from pipeline.settings.params import Params

SAMPLE_DATA = Path("sample/data")
SAMPLE_CHECKPOINTS = Path("checkpoints/sample")
SAMPLE_SIDE = 320
"""Pixels that the sample's pictures are shrunk to before OCR looks for text; its drawings are hardly larger."""
SAMPLE_RATE = 5e-4
"""The learning rate of the sample's small encoder, a hundred times that of a real one."""

_REMEDY = "`python -m pipeline.preset tweets` has settings for real tweets"


def slips(settings: Params) -> Iterator[tuple[str, str]]:
    """(Dotted key, what looks wrong and what to do) of each."""
    other_data = settings.data.root.resolve() != SAMPLE_DATA.resolve()
    if other_data:
        for key, model in _models(settings):
            if _is_sample(model):
                yield (
                    key,
                    f"{model} was trained on the sample's drawings and knows little else, but data.root is "
                    f"{settings.data.root}; {_REMEDY}",
                )
        ocr = settings.extraction("ocr")
        options = ocr.get("rapidocr") or {}
        if ocr["extractor"] == "rapidocr" and options.get("limit_side_len") == SAMPLE_SIDE:
            yield (
                "ocr.rapidocr.limit_side_len",
                f"{SAMPLE_SIDE} pixels suit the sample's small pictures; in a photograph small print is lost, but "
                f"data.root is {settings.data.root}; {_REMEDY}",
            )
    for kind in POST_KINDS:
        yield from _empty_places(settings, kind)
    for kind in (name for name, each in TEXT_KINDS.items() if each.optional and name not in settings.views.kinds):
        if settings.extraction(kind)["extractor"] is not None:
            yield f"{kind}.extractor", f"on, but views.kinds leaves {kind} out, so no tagger reads it; add it there"
    train = settings.train
    if not _is_sample(train.encoder) and train.learning_rate >= SAMPLE_RATE:
        yield (
            "train.learning_rate",
            f"{train.learning_rate:g} suits the sample's small encoder; another one will probably not learn at that "
            f"rate (5e-6 to 5e-5 is usual); {_REMEDY}",
        )


def _empty_places(settings: Params, kind: str) -> Iterator[tuple[str, str]]:
    """What the extractor of a kind is to be shown of posts, and nothing reads."""
    try:
        choice = choose(kind, settings.extraction(kind))
    except UserError:
        return  # which is named elsewhere
    wants = choice.options.wants() if hasattr(choice.options, "wants") else Wants()
    for name in sorted(wants.contexts):
        if settings.extraction(name)["extractor"] is None:
            yield f"{kind}.{choice.name}.prompt", f"names {{{name}}}, which is empty, since {name}.extractor is null"
    if wants.pictures and settings.data.images is None:
        yield f"{kind}.{choice.name}.pictures", "none is sent, since data.images is null; set it to 0"


def _models(settings: Params) -> Iterator[tuple[str, str]]:
    """(Dotted key, checkpoint) of every model in use."""
    for kind in KINDS:
        section = settings.extraction(kind)
        name = section["extractor"]
        model = (section.get(name) or {}).get("model") if name else None
        if isinstance(model, str):
            yield f"{kind}.{name}.model", model
    yield "train.encoder", settings.train.encoder


def _is_sample(model: str) -> bool:
    return Path(model).expanduser().resolve().is_relative_to(SAMPLE_CHECKPOINTS.resolve())
