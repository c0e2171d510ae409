"""The section `train` of params.yaml: the tagger and its training, and what each system alone has."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from pipeline.settings import flair
from pipeline.settings.section import Fraction, LessThanOne, Section, changed

ViewName = Literal["text_only", "cross_modal"]

MOST_SEED = 2**32 - 1
"""What NumPy and transformers take as a seed at most."""


class LossWeights(Section):
    """Weights of the terms of the two-view loss."""

    text_only: NonNegativeFloat = 1.0
    cross_modal: NonNegativeFloat = 0.5
    alignment: NonNegativeFloat = 0.5


SELF = "self"
"""Among teachers, the tagger's own cross-modal view."""


class TeacherParams(Section):
    """Who teaches: the tagger's own cross-modal view (`self`), as it moves, and saved taggers, which stay as they are.

    How `self` teaches is `train.alignment`'s and its neighbours'; all but `taggers` is about saved taggers.
    """

    taggers: list[Annotated[str, Field(min_length=1)]] = Field(default=[SELF])
    posts: Literal["all", "unlabelled"] = "all"
    views: Literal["text_only", "cross_modal", "both"] = "text_only"
    weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 1.0
    form: Literal["marginal", "sequence", "emission"] = "marginal"
    confidence: Literal["none", "threshold", "certainty", "surer"] = "none"
    threshold: Fraction = 0.9

    @property
    def folders(self) -> list[Path]:
        """Those of the saved taggers."""
        return [Path(name).expanduser() for name in self.taggers if name != SELF]

    @property
    def taught_views(self) -> list[ViewName]:
        """The views that learn from them."""
        return ["text_only", "cross_modal"] if self.views == "both" else [self.views]

    @model_validator(mode="after")
    def _once(self) -> "TeacherParams":
        if len(set(self.taggers)) != len(self.taggers):
            raise ValueError("taggers: names a teacher twice")
        return self


def _listed(words: Any) -> Any:
    """A list of words from a string that has commas between them."""
    return [word.strip() for word in words.split(",")] if isinstance(words, str) else words


TypeWords = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_listed)]
_TYPE_WORDS: dict[str, TypeWords] = {
    "PER": ["person", "player", "athlete", "artist", "actor", "singer", "author", "politician"],
    "LOC": ["location", "place", "country", "city", "state", "region", "venue", "landmark"],
    "ORG": ["organization", "company", "brand", "team", "club", "institution", "band", "party"],
    "O": ["year", "date", "topic", "concept", "activity", "sport", "object", "hashtag"],
}
"""What texts call types, by the type; O: what they call that is no entity."""


class ContextSpansParams(Section):
    """Names whose type a context states, as in "Oprah (person)": a second layer of labels for the text-only view."""

    weight: NonNegativeFloat = 0.0
    recall: Fraction = 0.8
    mentions: bool = False
    types: dict[str, TypeWords] = Field(default=_TYPE_WORDS)

    @model_validator(mode="after")
    def _each_once(self) -> "ContextSpansParams":
        known: dict[str, str] = {}
        for name, words in self.types.items():
            for word in words:
                if known.setdefault(word.casefold(), name) != name:
                    raise ValueError(f"types: {word!r} is both {known[word.casefold()]} and {name}; expected one type")
        if self.weight and not any(words for name, words in self.types.items() if name != "O"):
            raise ValueError("types: gives no type words; expected some, as in PER: person, actor")
        return self


class ContextEmbeddingParams(Section):
    """A context as a vector, which the text-only view learns to predict."""

    weight: NonNegativeFloat = 0.0


class ContextTargetParams(Section):
    """What contexts say as something that the text-only view learns, in layers that no tagger is saved with."""

    posts: Literal["all", "unlabelled"] = "all"
    spans: ContextSpansParams = ContextSpansParams()
    embedding: ContextEmbeddingParams = ContextEmbeddingParams()


class ItaParams(Section):
    """What ITA alone has: its cross-modal view is the tweet with its picture's context as text."""

    context_dropout: LessThanOne = 0.0
    gate: Literal["none", "soft", "hard"] = "none"
    weigh_alignment: bool = False

    @model_validator(mode="after")
    def _has_a_relation(self) -> "ItaParams":
        if self.weigh_alignment and self.gate == "none":
            raise ValueError("weigh_alignment: true weighs by the relation that a gate asks; set gate: soft or hard")
        return self


class RpbertParams(Section):
    """What RpBERT alone has: regions of the picture behind the tweet, gated by a text-image relation."""

    gate: Literal["soft", "hard", "none"] = "soft"
    gate_on: Literal["input", "attention"] = "input"
    detach_gate: bool = False
    pooling: Literal["mean", "first"] = "mean"
    lstm_layers: NonNegativeInt = 2
    lstm_width: PositiveInt = 256
    relation_weight: PositiveFloat = 0.05


class Iie4mnerParams(Section):
    """What IIE4MNER alone has: semantic augmentation, and attention to the picture's grid and to its objects."""

    word_vectors: Annotated[str, Field(min_length=1)] | None = None
    neighbours: PositiveInt = 4
    fusion_dropout: LessThanOne = 0.5
    span_weight: NonNegativeFloat = 0.5


class TrainParams(Section):
    """The tagger and its training; what one system alone has stands in a section of its name."""

    model: Literal["ita", "rpbert", "iie4mner"] = "ita"
    trainer: Literal["transformers", "flair"] = "transformers"
    encoder: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    views: Literal["both", "text_only", "cross_modal"] = "both"
    alignment: Literal["marginal", "sequence", "emission", "none"] = "marginal"
    temperature: PositiveFloat = 4.0
    weights: LossWeights = LossWeights()
    detach_teacher: bool = True
    teacher: TeacherParams = TeacherParams()
    context_target: ContextTargetParams = ContextTargetParams()
    alignment_warmup: Fraction = 0.0
    unlabelled_ratio: NonNegativeFloat = 1.0
    epochs: PositiveInt = 10
    batch_size: PositiveInt = 4
    gradient_accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 5e-6
    new_learning_rate: PositiveFloat | None = None
    crf_learning_rate: PositiveFloat = 0.05
    schedule: Literal["linear", "constant_with_warmup"] = "linear"
    warmup_ratio: LessThanOne = 0.0
    weight_decay: NonNegativeFloat = 0.01
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat | None = 5.0
    scheme: Literal["bioes", "iob2"] = "bioes"
    exclude_forbidden: bool = True
    word_dropout: LessThanOne = 0.1
    casing: bool = False
    max_length: Annotated[int, Field(ge=16)] = 512
    max_context: NonNegativeInt = 256
    stride: NonNegativeInt = 128
    short_addresses: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Annotated[int, Field(ge=0, le=MOST_SEED)] = 1
    patience: PositiveInt | None = None
    report_to: Literal["none", "mlflow", "wandb", "tensorboard"] = "none"
    ita: ItaParams = ItaParams()
    rpbert: RpbertParams = RpbertParams()
    iie4mner: Iie4mnerParams = Iie4mnerParams()

    @property
    def system_options(self) -> Section:
        """The options of the system that `model` names."""
        options: Section = getattr(self, self.model)
        return options

    @property
    def aligns_itself(self) -> bool:
        """Whether its own cross-modal view teaches the other."""
        teaches = SELF in self.teacher.taggers and self.weights.alignment > 0
        return teaches and self.views == "both" and self.alignment != "none"

    @property
    def teaching(self) -> dict[str, Any] | None:
        """How fixed teachers teach, as JSON values (:class:`ner.models.lessons.Teaching`); None where none does."""
        if not self.teacher.folders:
            return None
        options = self.teacher.model_dump(mode="json", exclude={"taggers", "posts"})
        return {**options, "views": self.teacher.taught_views}

    @property
    def trained_views(self) -> list[ViewName]:
        """The views of labelled posts."""
        return ["text_only", "cross_modal"] if self.views == "both" else [self.views]

    @property
    def unlabelled_views(self) -> list[ViewName]:
        """The views of posts without labels from which something is learned, where there are such posts."""
        if not self.unlabelled_ratio:
            return []
        if self.aligns_itself:
            return ["text_only", "cross_modal"]
        learning = set[ViewName](["text_only"] if self.learns_context else [])
        if self.teacher.folders and self.teacher.weight:
            learning.update(self.teacher.taught_views)
        return [view for view in self.trained_views if view in learning]

    @property
    def learns_context(self) -> bool:
        """Whether the text-only view learns what contexts say."""
        return self.context_target.spans.weight > 0 or self.context_target.embedding.weight > 0

    @property
    def learning_of_contexts(self) -> dict[str, Any] | None:
        """How it does, as JSON values (:class:`ner.models.context_target.ContextLayers`); None where it does not."""
        if not self.learns_context:
            return None
        return self.context_target.model_dump(mode="json", exclude={"posts": True, "spans": {"mentions", "types"}})

    @property
    def word_vectors(self) -> Path | None:
        """The file of word vectors that the system reads, if it reads any."""
        if self.model != "iie4mner" or self.iie4mner.word_vectors is None:
            return None
        return Path(self.iie4mner.word_vectors).expanduser()

    @model_validator(mode="after")
    def _consistent(self) -> "TrainParams":
        room = self.max_length - self.max_context
        if room < 16:
            raise ValueError(
                f"max_context: leaves {room} of max_length = {self.max_length} sub-tokens to the tweet; "
                "at least 16 are needed"
            )
        if self.stride >= room:
            raise ValueError(f"stride: {self.stride} is too much where a window leaves {room} sub-tokens to the tweet")
        if self.ita.context_dropout and self.views != "both":
            raise ValueError(
                "ita.context_dropout: reads the text-only view in the cross-modal one's place, so it needs "
                f"views: both, found views: {self.views}"
            )
        return self

    @model_validator(mode="after")
    def _teaches_a_trained_view(self) -> "TrainParams":
        if self.teacher.folders and self.views not in ("both", self.teacher.views):
            raise ValueError(
                f"teacher.views: {self.teacher.views} is to learn, but train.views: {self.views} trains no other view; "
                "make the two the same, or train.views: both"
            )
        return self

    @model_validator(mode="after")
    def _learns_context_in_a_trained_view(self) -> "TrainParams":
        if self.learns_context and self.views == "cross_modal":
            raise ValueError(
                "context_target: is learned by the text-only view, and train.views: cross_modal trains none; expected "
                "views: both or text_only"
            )
        return self

    @model_validator(mode="after")
    def _flair_can(self) -> "TrainParams":
        if self.trainer == "flair" and (problems := flair.unsupported(self, changed(self))):
            raise ValueError(problems)
        return self

    def require_divisible(self, n_processes: int) -> None:
        """Check that a step's tweets can be shared evenly.

        Raises:
            ValueError: they cannot.
        """
        if self.batch_size % (n_processes * self.gradient_accumulation):
            raise ValueError(
                f"train.batch_size: {self.batch_size} tweets cannot be split evenly among {n_processes} "
                f"processes (execution.processes) × gradient_accumulation = {self.gradient_accumulation}"
            )
