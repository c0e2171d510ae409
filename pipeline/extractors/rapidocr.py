"""Lines of text through RapidOCR: PP-OCR's detector and recogniser on onnxruntime, with the models of its wheel.

Pictures are read side by side, one thread each, since the models are too small to gain from more. RapidOCR shrinks a
picture to 2,000 pixels before it looks for text; long ones are given to it in strips instead.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import Field, PositiveFloat, PositiveInt

from pipeline.core.errors import UserError
from pipeline.core.machine import cores
from pipeline.core.records import TextLine
from pipeline.core.soundness import explained
from pipeline.extractors import _lines, _strips
from pipeline.extractors._side_by_side import SideBySide
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 2
"""Raised when the same picture, models and options would give another result."""

_THIN = 8  # longer over shorter side: thinner pictures are padded, as RapidOCR does with wide ones

_MODELS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}


class RapidOcrOptions(Options):
    """``ocr.rapidocr`` in params.yaml."""

    limit_type: Literal["max", "min"] = "max"
    limit_side_len: Annotated[int, Field(ge=32, le=4096)] = 320
    text_score: Fraction = 0.5
    box_thresh: Fraction = 0.5
    unclip_ratio: PositiveFloat = 1.6
    use_cls: bool = False
    space_thresh: Annotated[float, Field(gt=0, le=1)] = 0.2
    max_side_len: Annotated[int, Field(ge=320, le=8192)] = 2000
    strips_above: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.5
    strip_ratio: Annotated[float, Field(ge=1, le=8)] = 1.5
    strip_overlap: Annotated[float, Field(ge=0.05, le=0.75)] = 0.25
    max_boxes: PositiveInt = 1000

    def require(self) -> None:
        """Check that the package and its models are there."""
        _model_files(self.use_cls)


class RapidOcr(SideBySide[Image.Image, TextLine]):
    """Lines scored `text_score` or better, in reading order: rows from top to bottom, each from left to right."""

    Options = RapidOcrOptions

    def __init__(self, options: RapidOcrOptions, execution: ExecutionParams) -> None:
        super().__init__(execution.ocr_threads or cores())
        self._options = options

    def fingerprint(self) -> Mapping[str, Any]:
        """Models, options, RapidOCR's version, which has settings of its own, and ours."""
        files = _model_files(self._options.use_cls)
        return {
            "extractor": "ocr.rapidocr",
            "version": VERSION,
            "rapidocr": version("rapidocr"),
            **self._options.model_dump(),
            "models": {part: _digest(file) for part, file in sorted(files.items())},
        }

    def _read(self, shown: Image.Image) -> list[TextLine]:
        options = self._options
        pixels = np.ascontiguousarray(np.asarray(shown)[:, :, ::-1])  # OpenCV's order: blue, green, red
        strips = _strips.cut(
            *shown.size, options.strips_above, options.strip_ratio, options.strip_overlap, options.max_side_len
        )
        found = [self._lines(pixels, strip.box(*shown.size)) for strip in strips]
        return _lines.reading_order(_strips.merged(strips, found, lambda box: self._line(pixels, box)))

    def _lines(self, pixels: "NDArray[np.uint8]", box: tuple[int, int, int, int]) -> list[TextLine]:
        """The lines in a part of a picture, polygons in pixels of the whole.

        Args:
            pixels: of the picture, *Shape:* (height, width, 3).
            box: left, upper, right and lower edge of the part.
        """
        left, top, right, bottom = box
        part, beside, above = _padded(pixels[top:bottom, left:right])
        found = self._engine(part)
        if found.txts is None or found.boxes is None or found.scores is None:
            return []
        moved = found.boxes + np.array([left - beside, top - above], np.float32)
        corners = np.clip(moved, (left, top), (right, bottom))
        return [
            TextLine(
                text.strip(), round(float(score), 4), tuple((round(float(x), 1), round(float(y), 1)) for x, y in one)
            )
            for text, score, one in zip(found.txts, found.scores, corners, strict=True)
            if text.strip()
        ]

    def _line(self, pixels: "NDArray[np.uint8]", box: _strips.Box) -> TextLine | None:
        """The line of text that fills a box of the picture, or None where there is none scored well enough."""
        x0, y0, x1, y1 = box
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float32)
        crops = self._engine.crop_text_regions(pixels, [corners])
        if self._options.use_cls:
            crops = self._engine.cls_and_rotate(crops)[0]
        read = self._engine.recognize_txt(crops)
        text, score = read.txts[0].strip(), float(read.scores[0])
        if not text or score < self._options.text_score:
            return None
        return TextLine(text, round(score, 4), ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))

    def load(self) -> None:
        """Load the models of RapidOCR's wheel.

        Raises:
            UserError: the package is not installed, or comes without them, or they are damaged.
        """
        files = _model_files(True)
        trouble = (
            f"ocr.extractor: rapidocr: its models in {files['Det'].parent} cannot be loaded; install once more the "
            "version of rapidocr that requirements.lock names"
        )
        with explained(trouble):
            self._engine = self._made(files)

    def _made(self, files: Mapping[str, Path]) -> Any:
        """RapidOCR with its models loaded."""
        import cv2
        from rapidocr import RapidOCR

        cv2.setNumThreads(1)
        options = self._options
        engine = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.use_cls": options.use_cls,
                "Global.text_score": options.text_score,
                "Global.max_side_len": options.max_side_len,
                "Det.limit_type": options.limit_type,
                "Det.limit_side_len": options.limit_side_len,
                "Det.box_thresh": options.box_thresh,
                "Det.unclip_ratio": options.unclip_ratio,
                "Det.max_candidates": options.max_boxes,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                **{f"{part}.model_path": str(file) for part, file in files.items()},  # named, it never looks on the net
            }
        )
        engine._load_det_model()
        recogniser = engine._load_rec_model()
        recogniser.postprocess_op = SpacingDecoder(recogniser.postprocess_op.character, options.space_thresh)
        return engine


def _padded(pixels: "NDArray[np.uint8]") -> tuple["NDArray[np.uint8]", int, int]:
    """A picture that is thinner than 1:8 with black beside or above and below it, so that it is 1:4.

    RapidOCR makes the shorter side of a picture 30 pixels at least: one of 1 × 2,000 would be 32 × 60,000 then.

    Args:
        pixels: *Shape:* (height, width, 3).

    Returns:
        The picture, and how many columns and rows are new on its left and above it.
    """
    import cv2

    height, width = pixels.shape[:2]
    if max(height, width) <= _THIN * min(height, width):
        return np.ascontiguousarray(pixels), 0, 0
    wanted = 2 * max(height, width) // _THIN
    beside, above = max(0, (wanted - width) // 2), max(0, (wanted - height) // 2)
    return cv2.copyMakeBorder(pixels, above, above, beside, beside, cv2.BORDER_CONSTANT), beside, above


class SpacingDecoder:
    """CTC decoding that also finds the spaces that greedy decoding misses between words.

    Between two words set close together, "blank" often beats "space" at every step, though "space" is far likelier
    there than inside a word. A space goes between two characters where it reaches `threshold` at some step between
    them; but not in a line that is letter-spaced, where it does so nearly everywhere.
    """

    def __init__(self, characters: Sequence[str], threshold: float) -> None:
        self._characters = characters  # 0 is CTC's blank
        self._space = len(characters) - 1
        self._threshold = threshold

    def __call__(
        self, probabilities: "NDArray[np.float32]", return_word_box: bool = False, **_: Any
    ) -> tuple[list[tuple[str, float]], list[Any]]:
        """Decode the recogniser's output.

        Args:
            probabilities: *Shape:* (lines, steps, characters).

        Returns:
            For each line its text and the mean probability of its characters; and an empty list, in place of the
            words' boxes that RapidOCR asks for.
        """
        best = probabilities.argmax(axis=2)
        return [self._decode(line, choice) for line, choice in zip(probabilities, best, strict=True)], []

    def _decode(self, line: "NDArray[np.float32]", best: "NDArray[np.int64]") -> tuple[str, float]:
        begins = np.flatnonzero((best != 0) & np.concatenate(([True], best[1:] != best[:-1])))
        if not len(begins):
            return "", 0.0
        spaces = line[:, self._space]
        between = [
            0.0 if self._space in (best[first], best[second]) else float(spaces[first:second].max())
            for first, second in pairwise(begins)
        ]
        letter_spaced = sum(space >= self._threshold / 2 for space in between) > len(between) / 2
        text = self._characters[best[begins[0]]]
        for space, begin in zip(between, begins[1:], strict=True):
            text += " " * (space >= self._threshold and not letter_spaced) + self._characters[best[begin]]
        return " ".join(text.split()), float(line[begins, best[begins]].mean())


def _model_files(use_cls: bool) -> dict[str, Path]:
    """Model files of RapidOCR's wheel, by part of the pipeline.

    Raises:
        UserError: the package is not installed, or comes without them.
    """
    spec = find_spec("rapidocr")
    if spec is None or spec.origin is None:
        raise UserError(
            "ocr.extractor: rapidocr: the package rapidocr is not installed; run pip install -r requirements.lock"
        )
    folder = Path(spec.origin).parent / "models"
    files = {part: folder / name for part, name in _MODELS.items() if use_cls or part != "Cls"}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise UserError(
            f"ocr.extractor: rapidocr: {missing[0]} is not in {folder}; install the version of rapidocr "
            "that requirements.lock names"
        )
    return files


@cache
def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
