"""Object tags from a detector of detectron2 (Faster R-CNN, Mask R-CNN, RetinaNet), in a separate environment (venv).

Configurations are detectron2's, weights safetensors or what torch loads without running code. Pictures are prepared as
by its DefaultPredictor, but go through the model in batches.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import Field, PositiveInt
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from pipeline.core import environments
from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest
from pipeline.core.records import ObjectTag
from pipeline.core.weights import load_weights, weights_file
from pipeline.extractors import _boxes, _torch
from pipeline.extractors.base import Options
from pipeline.extractors.transformers_objects import Prepared
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""

INTERPRETER = "detectron2"

_IGNORED = ("roi_heads.mask_", "roi_heads.keypoint_", "anchor_generator.", "pixel_")
"""Weights of parts that tags do not need, and constants that older checkpoints hold."""

_LAST = ("cls_score", "bbox_pred", "objectness_logits", "anchor_deltas")
"""The layers that scores and boxes come from."""


class Detectron2Options(Options):
    """``objects.detectron2`` in params.yaml."""

    model: Annotated[str, Field(min_length=1)]
    weights: Annotated[str, Field(min_length=1)]
    threshold: Fraction = 0.5
    max_objects: PositiveInt = 50
    classes: Annotated[list[str], Field(min_length=1)] | None = None
    dtype: _torch.Dtype = "float32"

    def require(self) -> None:
        """Check that weights and configuration are there."""
        python = environments.environment(INTERPRETER).python
        source = (
            "expected the weights of the configuration that model names"
            if Path(self.model).is_file()
            else (
                f"where there is internet, {python} -c 'from detectron2 import model_zoo; "
                f'print(model_zoo.get_checkpoint_url("{self.model}"))\' says where the model zoo has it; download that '
                ".pkl, python -m pipeline.checkpoints convert FILE.pkl, and name the .safetensors"
            )
        )
        weights_file(self.weights, "detectron2.weights", source)
        if environments.packages(INTERPRETER) is not None:
            self.configurations()

    def configurations(self) -> list[Path]:
        """The configuration's file, then the one it is based on (``_BASE_``), and so on.

        Raises:
            UserError: one is missing, or no YAML.
        """
        own, zoo = Path(self.model).expanduser(), _zoo()
        file = own if own.is_file() or zoo is None else zoo / self.model
        files: list[Path] = []
        while file not in files:
            files.append(file)
            base = _base(file)
            if base is None:
                break
            file = file.parent / Path(base).expanduser()
        return files


def _zoo() -> Path | None:
    """The folder of the configurations that come with detectron2, where it is installed."""
    packages = environments.packages(INTERPRETER)
    return None if packages is None else packages / "detectron2" / "model_zoo" / "configs"


def _base(file: Path) -> str | None:
    """The ``_BASE_`` of a configuration, read without constructing any object from its YAML."""
    try:
        root = YAML(typ="safe", pure=True).compose(file.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(
            f"detectron2.model: {file}: no such file; expected a configuration of detectron2's model zoo, "
            "such as COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml, or a file of your own"
        ) from None
    except YAMLError as error:
        raise UserError(f"detectron2.model: {file}: no YAML: {error}") from None
    pairs = root.value if isinstance(root, MappingNode) else []
    return next((str(value.value) for key, value in pairs if key.value == "_BASE_"), None)


class _ZooConstructor(SafeConstructor):
    """Evaluates the expressions in the installed package's own files: RetinaNet's computes its anchors' sizes."""

    def evaluated(self, node: SequenceNode) -> Any:
        """The value of ``!!python/object/apply:eval ["expression"]``."""
        return eval(node.value[0].value, {"__builtins__": {}})  # noqa: S307  (part of the installed package)


_ZooConstructor.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _ZooConstructor.evaluated)


def _settings(file: Path) -> dict[str, Any]:
    """What a configuration sets.

    Raises:
        UserError: it wants more than plain values made, and is not detectron2's own.
    """
    text, zoo = file.read_text(encoding="utf-8"), _zoo()
    try:
        reader = YAML(typ="safe", pure=True)
        if zoo is not None and file.resolve().is_relative_to(zoo.resolve()):
            reader.Constructor = _ZooConstructor
        found = reader.load(text)
    except YAMLError as error:
        raise UserError(f"detectron2.model: {file}: no plain YAML: {error}") from None
    return {key: value for key, value in (found or {}).items() if key != "_BASE_"}


class Detectron2:
    """Tags with a score above `threshold`, best first, at most `max_objects`, boxes within the picture.

    Masks and keypoints, where the model has them, are not computed.
    """

    Options = Detectron2Options
    INTERPRETER = INTERPRETER

    def __init__(self, options: Detectron2Options, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, configuration, options, detectron2's version and ours."""
        self._options.require()
        return {
            "extractor": "objects.detectron2",
            "version": VERSION,
            "detectron2": environments.version(INTERPRETER, "detectron2"),
            "checkpoint": f"sha256:{file_digest(Path(self._options.weights).expanduser())}",
            "configuration": [file_digest(file) for file in self._options.configurations()],
            **self._options.model_dump(exclude={"model", "weights"}),
        }

    def bucket(self, width: int, height: int) -> Hashable:
        """The size that the picture is given."""
        size: tuple[int, int] = self._resize.get_output_shape(
            height, width, self._resize.short_edge_length[0], self._resize.max_size
        )
        return size

    def prepare(self, image: Image.Image) -> Prepared:
        """Resize one picture; its mean is subtracted by the model."""
        import numpy as np
        import torch

        pixels = np.asarray(image)
        if self._config.INPUT.FORMAT == "BGR":
            pixels = pixels[:, :, ::-1]
        resized = self._resize.get_transform(pixels).apply_image(pixels)
        return Prepared(torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))), (image.height, image.width))

    def extract(self, images: Sequence[Image.Image]) -> list[list[ObjectTag]]:
        """Tags of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[Prepared]) -> list[list[ObjectTag]]:
        """Tags of each picture.

        Raises:
            ValueError: the model gave numbers that are not finite.
        """

        def run(pixels: "torch.Tensor", places: list[int]) -> list[list[ObjectTag]]:
            return self._detect(pixels, [prepared[place].size for place in places])

        return _torch.in_batches_of_one_shape([one.pixels for one in prepared], run, self._device, "float32")

    def _detect(self, pixels: "torch.Tensor", sizes: list[tuple[int, int]]) -> list[list[ObjectTag]]:
        """Tags of a stack of pictures.

        Args:
            pixels: resized pictures on the model's device, levels 0 to 255, *Shape:* (batch, 3, height, width).
            sizes: height and width in pixels of each picture itself.
        """
        import torch

        inputs = [
            {"image": picture, "height": height, "width": width}
            for picture, (height, width) in zip(pixels, sizes, strict=True)
        ]
        dtype = getattr(torch, self._options.dtype)
        with torch.inference_mode(), torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
            outputs = self._model(inputs)
        results = []
        for output, size in zip(outputs, sizes, strict=True):
            found = output["instances"]
            tags = [
                _boxes.tag(self._names[label], score, box, size)
                for label, score, box in zip(
                    found.pred_classes.tolist(), found.scores.tolist(), found.pred_boxes.tensor.tolist(), strict=True
                )
            ]
            results.append(_boxes.best(tags, self._options.max_objects))
        return results

    def load(self) -> None:
        """Load configuration and model.

        Raises:
            UserError: the device is not available, or configuration, weights and classes do not fit together.
        """
        from detectron2.data.transforms import ResizeShortestEdge

        self._device = _torch.device(self._device_name)
        self._config = self._merged_configuration()
        sizes = self._config.INPUT
        self._resize = ResizeShortestEdge([sizes.MIN_SIZE_TEST, sizes.MIN_SIZE_TEST], sizes.MAX_SIZE_TEST)
        self._names = self._class_names(self._config)  # before the model, as they need none
        self._model = self._detector()

    def _merged_configuration(self) -> Any:
        from detectron2.config import CfgNode, get_cfg

        options, config = self._options, get_cfg()
        try:
            for file in reversed(options.configurations()):
                config.merge_from_other_cfg(CfgNode(_settings(file)))
        except (KeyError, ValueError, AssertionError) as error:
            raise UserError(f"detectron2.model: {options.model}: detectron2 does not take it: {error}") from None
        config.MODEL.WEIGHTS = ""
        config.MODEL.DEVICE = str(_torch.device(self._device_name))
        config.MODEL.MASK_ON = config.MODEL.KEYPOINT_ON = False
        config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = config.MODEL.RETINANET.SCORE_THRESH_TEST = options.threshold
        config.TEST.DETECTIONS_PER_IMAGE = options.max_objects
        config.freeze()
        return config

    def _class_names(self, config: Any) -> Sequence[str]:
        """What the classes are called, in the model's order: params' list, or that of the data set it learnt from."""
        from detectron2.data import MetadataCatalog

        names = self._options.classes
        trained_on = config.DATASETS.TRAIN[0] if config.DATASETS.TRAIN else "no data set"
        if names is None:
            names = MetadataCatalog.get(trained_on).get("thing_classes", None)
        one_stage = config.MODEL.META_ARCHITECTURE == "RetinaNet"
        expected = (config.MODEL.RETINANET if one_stage else config.MODEL.ROI_HEADS).NUM_CLASSES
        if names is None or len(names) != expected:
            found = f"detectron2 knows none for {trained_on}" if names is None else f"found {len(names)}"
            raise UserError(
                f"objects.detectron2.classes: {self._options.model} has {expected} classes, {found}; list "
                "their names in its order"
            )
        return [str(name) for name in names]

    def _detector(self) -> Any:
        """The model in evaluation mode, with the weights that params name."""
        from detectron2.modeling import build_model

        names = self._names
        model = build_model(self._config)
        weights = load_weights(Path(self._options.weights).expanduser())
        state = model.state_dict()
        wrong = [
            f"{name} is {list(weights[name].shape)}, expected {list(state[name].shape)}"
            for name in state
            if name in weights and weights[name].shape != state[name].shape
        ]
        wrong += [f"{name} is missing" for name in state if name not in weights and not _ignored(name)]
        wrong += [f"{name} is no part of it" for name in weights if name not in state and not _ignored(name)]
        if wrong:
            raise UserError(
                f"objects.detectron2: {self._options.weights} does not fit {self._options.model} with "
                f"{len(names)} classes: {'; '.join(wrong[:3])}" + (", …" if len(wrong) > 3 else "")
            )
        model.load_state_dict({name: value for name, value in weights.items() if name in state}, strict=False)
        for name, part in model.named_modules():
            if name.endswith(_LAST):
                part.register_forward_hook(_refuse_infinite)
        return model.eval()


def _refuse_infinite(_part: Any, _inputs: Any, output: "torch.Tensor") -> None:
    """A forward hook: detectron2 silently leaves such boxes out, and the picture would seem empty."""
    if not output.isfinite().all():
        raise ValueError("the detector gave scores or boxes that are not finite")


def _ignored(name: str) -> bool:
    return any(part in name for part in _IGNORED)
