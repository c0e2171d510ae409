"""Which of `train`'s settings flair's own trainer honours; it would ignore the others without a word."""

from collections.abc import Iterable
from typing import Any

from pipeline.core.runs import Change

HONOURED = {
    "trainer",
    "encoder",
    "revision",
    "views",
    "alignment",
    "temperature",
    "weights",
    "detach_teacher",
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "learning_rate",
    "crf_learning_rate",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "word_dropout",
    "max_length",
    "max_context",
    "stride",
    "precision",
    "seed",
    "patience",
}
ALIGNMENTS = ("marginal", "none")


def unsupported(train: Any, changes: Iterable[Change]) -> str:
    """What flair's trainer cannot do of the settings: each key, what was found and what was expected; else empty.

    Args:
        train: the section `train`, a :class:`~pipeline.settings.training.TrainParams`.
        changes: its settings that are not their defaults.
    """
    problems = [
        f"{change.key}: found {change.value!r}, expected {change.default!r}"
        for change in changes
        if change.key.partition(".")[0] not in HONOURED
    ]
    views, alignment = train.views, train.alignment
    if views == "both" and alignment not in ALIGNMENTS:
        problems.append(f"alignment: found {alignment!r}, expected {' or '.join(ALIGNMENTS)}")
    if not problems:
        return ""
    return "; ".join([*problems, "that is what flair's trainer can do, and trainer: transformers can do all of it"])
