"""params.yaml as typed objects: one model per section, read once, every mistake named with its key and line.

The options of an extractor are typed beside that extractor; whether what params name exists (folders, checkpoints) is
checked in :mod:`pipeline.checks.check`.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
    field_validator,
    model_validator,
)

from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS, TEXT_KINDS, Kind, TextTemplate
from pipeline.core.labels import check_type
from pipeline.settings import yaml
from pipeline.settings.mistakes import describe
from pipeline.settings.section import Section
from pipeline.settings.training import TrainParams

S = TypeVar("S", bound="Section")
K = TypeVar("K", bound=Kind)

_URL = re.compile(r"^[a-z][a-z0-9+]*://\S+$")

Split = Literal["train", "dev", "test"]
PostSplit = Literal["train", "dev", "test", "unlabelled"]
SpanMode = Literal["snap", "refuse"]
Condition = Literal["cross_modal", "text_only", "shuffled", "noised", "missing"]

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
POST_SPLITS: tuple[PostSplit, ...] = (*SPLITS, "unlabelled")
"""With the posts that nobody has labelled: those of which there are views."""
RESERVED_TYPES = ("micro", "none", "total", "seen", "unseen")
"""No names for entity types: in scores, confusion and counts they stand beside those, for other groups of entities."""
MOST_PIXELS = 178_956_970
"""Twice ``PIL.Image.MAX_IMAGE_PIXELS``: Pillow opens no picture with more."""


def _below_root(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts:
        raise ValueError("expected a path below data.root, without a leading / and without ..")
    return value


def _on_this_machine(value: Any) -> Any:
    if isinstance(value, str) and _URL.match(value):
        raise ValueError(
            "expected a folder of this machine; `dvc import-url URL FOLDER` fetches the texts and tracks them, and the "
            "pictures may stay behind a URL of their own (data.images)"
        )
    return value


def _place(value: str) -> str:
    """A path or URL: what is in it goes into messages, records and reports."""
    _, url, where = value.partition("://")
    if url and not where.strip("/"):
        raise ValueError("expected a place behind ://, as in s3://bucket/folder")
    if "@" in where.split("/", 1)[0]:
        raise ValueError("expected a URL without user and password; credentials are those of the environment")
    return value


def _names_id(value: str) -> str:
    if value.count("{id}") != 1 or set(value.replace("{id}", "")) & set("{}"):
        raise ValueError('expected a file name with {id} in it once and no other braces, as in "{id}.jpg"')
    return value


def _not_mps(value: Any) -> Any:
    if value == "mps":
        raise ValueError(
            "expected auto, cpu or cuda: the CRF computes in float64, which Apple's GPUs do not have, so that "
            "training would fail; auto is the CPU there"
        )
    return value


def _names_type(value: str) -> str:
    if value in RESERVED_TYPES:
        raise ValueError(
            f"expected a name other than {', '.join(RESERVED_TYPES)}, which mean something else in scores and counts"
        )
    if value != "O":  # which drops the type
        check_type(value)
    return value


def _known_kind(value: str) -> str:
    if value not in TEXT_KINDS:
        raise ValueError(f"expected one of {', '.join(TEXT_KINDS)}")
    return value


def _kind_of_pictures(value: str) -> str:
    if value not in _OF_PICTURES:
        raise ValueError(f"expected one of {', '.join(_OF_PICTURES)}")
    return value


_OF_PICTURES = [name for name, kind in KINDS.items() if kind.about == "picture"]
KindOfPictures = Annotated[str, AfterValidator(_kind_of_pictures), WithJsonSchema({"enum": _OF_PICTURES})]
KnownKind = Annotated[str, AfterValidator(_known_kind), WithJsonSchema({"enum": list(TEXT_KINDS)})]
RelativePath = Annotated[str, AfterValidator(_below_root)]
Share = Annotated[float, Field(gt=0, le=1)]
EntityType = Annotated[str, Field(min_length=1), AfterValidator(_names_type)]


class DataParams(Section):
    """Where a data set lies and how it is written."""

    root: Annotated[Path, BeforeValidator(_on_this_machine)]
    format: Literal["conll", "jsonl", "csv", "label_studio", "datasets"] = "conll"
    label_column: Annotated[int, Field(ge=2)] = 2
    spans: SpanMode = "snap"
    scheme: Literal["iob2", "iob1", "bioes"] = "iob2"
    train: list[RelativePath] = Field(default=[])
    dev: list[RelativePath] = Field(default=[])
    test: list[RelativePath] = Field(default=[])
    unlabelled: list[RelativePath] = Field(default=[])
    relation: list[RelativePath] = Field(default=[])
    listing: RelativePath | None = None
    images: Annotated[str, Field(min_length=1)] | None = None
    image_name: Annotated[str, AfterValidator(_names_id)] = "{id}.jpg"
    follow: list[Annotated[str, Field(min_length=1)]] = Field(default=[])
    types: dict[str, EntityType] = Field(default={})
    limit: PositiveInt | None = None

    @field_validator("images")
    @classmethod
    def _images_are_seen(cls, value: str | None, found: ValidationInfo) -> str | None:
        if value is None:
            return None
        if _URL.match(value) or found.data.get("listing") is not None:
            return _place(value)
        try:
            return _below_root(value)
        except ValueError as error:
            raise ValueError(f"{error}; pictures may lie elsewhere where data.listing lists them") from None

    @model_validator(mode="after")
    def _listed_are_somewhere(self) -> "DataParams":
        if self.listing is not None and self.images is None:
            raise ValueError("listing: names a file, but data.images says of no place where the pictures lie")
        return self

    def files(self, split: "PostSplit") -> list[Path]:
        """The text files of one split."""
        return [self.root / name for name in getattr(self, split)]

    @property
    def listing_file(self) -> Path | None:
        """What lists the pictures with their digests, or None for a data set without."""
        return None if self.listing is None else self.root / self.listing

    @property
    def images_folder(self) -> Path | None:
        """The folder of the pictures, or None for a data set without, or with pictures elsewhere."""
        return None if self.images is None or self.images_elsewhere else self.root / self.images

    @property
    def images_elsewhere(self) -> str | None:
        """Where the pictures lie that are in no folder: a URL, or a path or URL of tars; None where there are none."""
        if self.images is None or _URL.match(self.images):
            return self.images
        return str(self.root / self.images) if self.images.endswith(".tar") else None

    @property
    def linked_folders(self) -> list[Path]:
        """Folders outside of the data set's that links in it may lead to."""
        return [Path(folder) for folder in self.follow]


class ImagesParams(Section):
    """Limits on a picture: on its size, checked before it is decoded, and on the time that decoding takes."""

    max_pixels: Annotated[PositiveInt, Field(le=MOST_PIXELS)] = 50_000_000
    max_bytes: PositiveInt = 50_000_000
    max_seconds: PositiveFloat = 10.0


class ExtractorParams(BaseModel):
    """An extraction stage: which extractor (null: none), and every extractor's options side by side under its name."""

    model_config = ConfigDict(extra="allow", frozen=True)

    extractor: Annotated[str, Field(min_length=1)] | None


class ViewsParams(Section):
    """The template of the context string; each kind of context has a section of its own below it."""

    kinds: list[KnownKind]
    separator: str
    max_images: PositiveInt = 4
    image_separator: str = " . "

    @model_validator(mode="after")
    def _kinds_once(self) -> "ViewsParams":
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("kinds: names a kind twice")
        return self

    def template(self, kind: str) -> TextTemplate:
        """How items of a kind are rendered."""
        found: TextTemplate = getattr(self, kind)
        return found


class EvaluateParams(Section):
    """Under which conditions the tagger is scored, and how sure the scores are."""

    conditions: Annotated[list[Condition], Field(min_length=1)]
    noised_share: Share = 0.5
    missing_share: Share = 0.5
    shuffle_seed: NonNegativeInt = 1
    bootstrap_samples: NonNegativeInt = 1000
    bootstrap_seed: NonNegativeInt = 1
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    attention: bool = False


class ReportParams(Section):
    """What report/index.html shows."""

    splits: list[Split] = Field(default=["test", "dev"], min_length=1)
    thumbnail: Annotated[int, Field(ge=32, le=2048)] = 320


class BatchSizes(Section):
    """Pictures or posts per batch, by stage."""


class HttpExecution(Section):
    """How a server is asked by the extractors named `http`."""

    requests: PositiveInt = 16
    timeout: PositiveFloat = 120.0
    attempts: PositiveInt = 8


class RayExecution(Section):
    """How the engine `ray` reads: what a worker takes, and what it may."""

    address: Annotated[str, Field(min_length=1)] | None = None
    num_cpus: PositiveInt = 1
    num_gpus: NonNegativeFloat = 0.0
    retries: NonNegativeInt = 2
    max_seconds: PositiveFloat = 600.0


class ExecutionParams(Section):
    """How a run uses the machine; no stage depends on it."""

    engine: Literal["local", "ray"] = "local"
    ray: RayExecution = RayExecution()
    results: Annotated[str, Field(min_length=1), AfterValidator(_place)] | None = None

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$"), BeforeValidator(_not_mps)] = "auto"
    decode_workers: PositiveInt = 2
    one_pass: list[KindOfPictures] = Field(default=[])
    batch_size: BatchSizes = BatchSizes()
    ocr_threads: NonNegativeInt = 0
    http: HttpExecution = HttpExecution()
    predict_batch_size: PositiveInt = 32
    processes: PositiveInt = 1
    ddp_timeout: PositiveFloat = 1800.0

    @property
    def cluster(self) -> RayExecution | None:
        """The cluster that stages run on, or None where they run in this process."""
        return self.ray if self.engine == "ray" else None


class Params(Section):
    """The whole of params.yaml; each kind of results has a section of its own (:meth:`extraction`)."""

    data: DataParams
    images: ImagesParams = ImagesParams()
    views: ViewsParams
    train: TrainParams
    evaluate: EvaluateParams
    report: ReportParams = ReportParams()
    execution: ExecutionParams = ExecutionParams()

    @model_validator(mode="after")
    def _processes_fit(self) -> "Params":
        train, n_processes = self.train, self.execution.processes
        if train.trainer == "flair" and n_processes > 1:
            raise ValueError(f"execution.processes: found {n_processes}, but train.trainer: flair runs in 1")
        if train.trainer == "flair" and self.data.unlabelled:
            raise ValueError(
                "data.unlabelled: names files, but train.trainer: flair learns from labelled posts alone; leave it [], "
                "or use trainer: transformers"
            )
        train.require_divisible(n_processes)
        return self

    def extraction(self, kind: str) -> dict[str, Any]:
        """The section of a kind: which extractor, and every extractor's options."""
        section: ExtractorParams = getattr(self, kind)
        return section.model_dump()


def _with_kinds(model: type[S], kinds: Mapping[str, K], of_kind: Callable[[K], Any], **others: Any) -> type[S]:
    """A model of params with a field for each of `kinds`."""
    fields: dict[str, Any] = {name: of_kind(kind) for name, kind in kinds.items()}
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields, **others)


VIEWS = _with_kinds(
    ViewsParams, TEXT_KINDS, lambda kind: (kind.template, kind.template(max=1) if kind.optional else ...)
)
"""The type of the section `views`, with the kinds of context that there are."""


def _section(kind: Kind) -> Any:
    """The section of a kind."""
    return ExtractorParams, ExtractorParams(extractor=None) if kind.optional else ...


EXECUTION = create_model(
    "ExecutionParams",
    __base__=ExecutionParams,
    __doc__=ExecutionParams.__doc__,
    batch_size=(sizes := _with_kinds(BatchSizes, KINDS, lambda kind: (PositiveInt, kind.batch_size)), sizes()),
)
"""The type of the section `execution`, with the kinds that there are."""
PARAMS = _with_kinds(Params, KINDS, _section, views=(VIEWS, ...), execution=(EXECUTION, EXECUTION()))
"""The type of params.yaml, with the kinds that there are."""


def load(path: str | Path = "params.yaml") -> Params:
    """Read and validate params.

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing, given twice or has a bad value; all
            the mistakes of the file are in the one message.
    """
    if not Path(path).exists():
        raise UserError(f"{path}: no such file; run from the folder that contains params.yaml")
    return parse(yaml.text_of(path), str(path))


def parse(text: str, source: str) -> Params:
    """Validate the text of a params.yaml; `source` stands for the file in messages.

    Raises:
        UserError: as :func:`load`.
    """
    return validated(yaml.parse(text, source), source)


def validated(document: yaml.Document, source: str) -> Params:
    """Validate params that have been read as YAML.

    Raises:
        UserError: as :func:`load`.
    """
    values, lines = document
    if not isinstance(values, dict):
        expected = ", ".join(PARAMS.model_fields)
        raise UserError(f"{source}: expected sections ({expected}), found {type(values).__name__}")
    try:
        return PARAMS.model_validate(values)
    except ValidationError as error:
        raise UserError("\n".join(describe(error, PARAMS, source, lines))) from None


def key_lines(path: str | Path) -> dict[str, int]:
    """Dotted key → line of a YAML file.

    Raises:
        UserError: the file is missing or not YAML.
    """
    return yaml.load(path).lines
