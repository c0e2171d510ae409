"""Lines of text through EasyOCR's detector (CRAFT) and recognisers, in a separate environment (venv).

EasyOCR reads one picture at a time and, on a CPU, one line; here pictures of one size go through the detector together,
and lines of one width through the recogniser, whichever pictures they are from. Its models are files on disk: nothing
is downloaded.
"""

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat

from pipeline.core import environments
from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest
from pipeline.core.records import TextLine
from pipeline.core.weights import load_weights, weights_file
from pipeline.extractors import _lines, _torch
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams
from pipeline.settings.section import Fraction

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

VERSION = 1
"""Raised when the same picture, models and options would give another result."""

INTERPRETER = "easyocr"

_DETECTOR = "craft_mlt_25k.pth"
_HEIGHT = 64  # pixels of a line, as the recognisers take it
_LOW_CONTRAST = 0.1  # a line scored lower is read once more, …
_CONTRAST = 0.5  # … with its contrast raised to this, as EasyOCR does


@dataclass(frozen=True, slots=True)
class Recogniser:
    """A model that reads lines: its name in EasyOCR's tables, its file, and the languages it may be asked for."""

    generation: str
    name: str
    file: str
    languages: frozenset[str]


def _recogniser(generation: int, name: str, file: str, languages: str) -> Recogniser:
    return Recogniser(f"gen{generation}", name, file, frozenset(languages.split()))


RECOGNISERS = (
    _recogniser(1, "thai_g1", "thai.pth", "th"),
    _recogniser(1, "zh_tra_g1", "chinese.pth", "ch_tra"),
    _recogniser(2, "zh_sim_g2", "zh_sim_g2.pth", "ch_sim"),
    _recogniser(2, "japanese_g2", "japanese_g2.pth", "ja"),
    _recogniser(2, "korean_g2", "korean_g2.pth", "ko"),
    _recogniser(1, "tamil_g1", "tamil.pth", "ta"),
    _recogniser(2, "telugu_g2", "telugu.pth", "te"),
    _recogniser(2, "kannada_g2", "kannada.pth", "kn"),
    _recogniser(1, "bengali_g1", "bengali.pth", "bn as"),
    _recogniser(1, "arabic_g1", "arabic.pth", "ar fa ug ur"),
    _recogniser(1, "devanagari_g1", "devanagari.pth", "hi mr ne bh mai ang bho mah sck new gom"),
    _recogniser(
        2, "cyrillic_g2", "cyrillic_g2.pth", "ru rs_cyrillic be bg uk mn abq ady kbd ava dar inh che lbe lez tab tjk"
    ),
    _recogniser(2, "english_g2", "english_g2.pth", ""),
    _recogniser(
        2,
        "latin_g2",
        "latin_g2.pth",
        "af az bs cs cy da de es et fr ga hr hu id is it ku la lt lv mi ms mt nl no oc pi pl pt ro rs_latin sk "
        "sl sq sv sw tl tr uz vi",
    ),
)
"""EasyOCR's choice of a model by language. Each reads English too, and English alone has one of its own."""


def recogniser(languages: Sequence[str]) -> Recogniser:
    """The model that reads these languages.

    Raises:
        ValueError: one is unknown, or no model reads all of them.
    """
    others = set(languages) - {"en"}
    known = set[str]().union(*(one.languages for one in RECOGNISERS))
    if others - known:
        raise ValueError(
            f"EasyOCR does not know {', '.join(sorted(others - known))}; expected some of "
            f"{', '.join(sorted({'en', *known}))}"
        )
    fitting = [one for one in RECOGNISERS if others <= one.languages]
    if not fitting:
        raise ValueError("no model of EasyOCR reads all of these; expected languages of one script, with or without en")
    return next(one for one in fitting if others or one.name == "english_g2")


def _readable(languages: list[str]) -> list[str]:
    recogniser(languages)
    return languages


class EasyOcrOptions(Options):
    """``ocr.easyocr`` in params.yaml."""

    languages: Annotated[list[str], AfterValidator(_readable)] = Field(default=["en"], min_length=1)
    models: str | None = None
    canvas_size: Annotated[int, Field(ge=32, le=8192)] = 2560
    mag_ratio: PositiveFloat = 1.0
    text_threshold: Fraction = 0.7
    low_text: Fraction = 0.4
    link_threshold: Fraction = 0.4
    width_ths: PositiveFloat = 0.5
    min_size: NonNegativeInt = 20
    text_score: Fraction = 0.5

    def require(self) -> None:
        """Check that the models are there."""
        self.files()

    def files(self) -> tuple[Path, Path]:
        """The detector's and the recogniser's file.

        Raises:
            UserError: one is missing.
        """
        if self.models is not None:
            folder = Path(self.models).expanduser()
        else:
            base = os.environ.get("EASYOCR_MODULE_PATH") or os.environ.get("MODULE_PATH") or "~/.EasyOCR"
            folder = Path(base).expanduser() / "model"
        source = (
            f'where there is internet, {environments.environment(INTERPRETER).python} -c "import easyocr; '
            f"easyocr.Reader({self.languages}, model_storage_directory='{folder}')\" puts it there"
        )
        detector, reader = (
            weights_file(str(folder / name), "easyocr.models", source)
            for name in (_DETECTOR, recogniser(self.languages).file)
        )
        return detector, reader


@dataclass(frozen=True, slots=True)
class _Line:
    polygon: Any  # four corners in the picture, clockwise from the upper left
    grey: "NDArray[np.uint8]"  # the line by itself, level, `_HEIGHT` pixels along its shorter side
    width: int  # what it is padded to: more would change what the model sees with what is beside it


@dataclass(frozen=True, slots=True)
class _Prepared:
    pixels: "torch.Tensor"  # (3, height, width) of the detector's input, normalised
    ratio: float  # the picture's size times this is its size in there
    grey: "NDArray[np.uint8]"  # (height, width) of the picture itself


class EasyOcr:
    """Lines scored `text_score` or better, in reading order: rows from top to bottom, each from left to right.

    A score is EasyOCR's: the product of the characters' probabilities, to the power of 2 over the square root of their
    number. Unlike EasyOCR on a CPU, its models keep their full precision, so that results do not depend on the device.
    """

    Options = EasyOcrOptions
    INTERPRETER = INTERPRETER

    def __init__(self, options: EasyOcrOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def fingerprint(self) -> Mapping[str, Any]:
        """Models, options, EasyOCR's version and ours."""
        return {
            "extractor": "ocr.easyocr",
            "version": VERSION,
            **self._options.model_dump(exclude={"models"}),
            "languages": sorted(set(self._options.languages)),
            "easyocr": environments.version(INTERPRETER, "easyocr"),
            "models": [file_digest(file) for file in self._options.files()],
        }

    def bucket(self, width: int, height: int) -> Hashable:
        """The size of the detector's input: the picture's own, at most `canvas_size`, up to a multiple of 32."""
        return tuple(-(-side // 32) for side in self._size(width, height))

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """What the detector sees of a picture, in pixels."""
        longer = max(width, height)
        ratio = min(self._options.mag_ratio * longer, self._options.canvas_size) / longer
        return int(width * ratio), int(height * ratio)

    def prepare(self, image: Image.Image) -> _Prepared:
        """Resize and normalise one picture.

        Raises:
            ValueError: it is a strip so thin that resizing leaves nothing of it.
        """
        import cv2
        import numpy as np
        import torch
        from easyocr.imgproc import normalizeMeanVariance, resize_aspect_ratio

        colours = np.asarray(image)
        if 0 in self._size(image.width, image.height):
            raise ValueError(
                f"of {image.width} × {image.height} pixels, nothing is left on a canvas of {self._options.canvas_size}"
            )
        resized, ratio, _ = resize_aspect_ratio(
            colours, self._options.canvas_size, cv2.INTER_LINEAR, self._options.mag_ratio
        )
        pixels = torch.from_numpy(np.ascontiguousarray(normalizeMeanVariance(resized).transpose(2, 0, 1)))
        return _Prepared(pixels, ratio, cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY).astype(np.uint8))

    def extract(self, images: Sequence[Image.Image]) -> list[list[TextLine]]:
        """Lines of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: Sequence[_Prepared]) -> list[list[TextLine]]:
        """Lines of each picture.

        Raises:
            ValueError: a model gave numbers that are not finite.
        """

        def detect(pixels: "torch.Tensor", places: list[int]) -> list[list[_Line]]:
            return self._detect(pixels, [prepared[place] for place in places])

        found = _torch.in_batches_of_one_shape([one.pixels for one in prepared], detect, self._device, "float32")
        read = iter(self._read([line for lines in found for line in lines]))
        return [self._written([(line.polygon, *next(read)) for line in lines]) for lines in found]

    def _detect(self, pixels: "torch.Tensor", pictures: Sequence[_Prepared]) -> list[list[_Line]]:
        """The lines of each picture of a stack.

        Args:
            pixels: input of the detector on its device, *Shape:* (batch, 3, height, width).
            pictures: what each was prepared from.

        Raises:
            ValueError: the detector gave numbers that are not finite.
        """
        import numpy as np
        import torch
        from easyocr.craft_utils import adjustResultCoordinates, getDetBoxes

        with torch.inference_mode():
            maps = self._detector(pixels)[0].float().cpu().numpy()  # (pictures, height / 2, width / 2, 2)
        if not np.isfinite(maps).all():
            raise ValueError("the detector gave numbers that are not finite")
        options, results = self._options, []
        for (text, link), picture in zip(maps.transpose(0, 3, 1, 2), pictures, strict=True):
            boxes, _, _ = getDetBoxes(text, link, options.text_threshold, options.link_threshold, options.low_text)
            back = 1 / picture.ratio
            results.append(self._cut_out(adjustResultCoordinates(boxes, back, back), picture.grey))
        return results

    def _cut_out(self, boxes: Any, grey: "NDArray[np.uint8]") -> list[_Line]:
        import numpy as np
        from easyocr.utils import get_image_list, group_text_box

        options, (height, width) = self._options, grey.shape
        level, tilted = group_text_box(
            [np.asarray(box).astype(np.int32).reshape(-1) for box in boxes], width_ths=options.width_ths, add_margin=0.1
        )
        level = [
            one
            for one in level
            if max(one[1] - one[0], one[3] - one[2]) > options.min_size
            and min(one[1], width) > max(one[0], 0)
            and min(one[3], height) > max(one[2], 0)
        ]
        tilted = [one for one in tilted if np.ptp(np.array(one), axis=0).max() > options.min_size]
        lines = []
        for group in [([one], []) for one in level] + [([], [one]) for one in tilted]:
            cut, padded = get_image_list(*group, grey, model_height=_HEIGHT)
            lines += [_Line(polygon, line, int(padded)) for polygon, line in cut]
        return lines

    def _read(self, lines: Sequence[_Line]) -> list[tuple[str, float]]:
        """Text and score of each line, of whatever picture."""
        read = self._recognise(lines, raised=False)
        doubtful = [place for place, (_, score) in enumerate(read) if score < _LOW_CONTRAST]
        for place, again in zip(
            doubtful, self._recognise([lines[place] for place in doubtful], raised=True), strict=True
        ):
            read[place] = max(again, read[place], key=lambda one: one[1])
        return read

    def _recognise(self, lines: Sequence[_Line], raised: bool) -> list[tuple[str, float]]:
        """One look at each line, with its contrast as it is or raised."""
        import numpy as np
        from easyocr.recognition import AlignCollate, recognizer_predict

        def tensor(line: _Line) -> "torch.Tensor":
            align = AlignCollate(imgH=_HEIGHT, imgW=line.width, adjust_contrast=_CONTRAST if raised else 0.0)
            pixels: torch.Tensor = align([Image.fromarray(line.grey)])[0]
            return pixels

        def run(pixels: "torch.Tensor", _places: list[int]) -> list[tuple[str, float]]:
            model, converter, ignored = self._reader
            read = recognizer_predict(model, converter, [pixels], 1, ignored, None, device=self._device)
            if not np.isfinite([score for _, score in read]).all():
                raise ValueError("the recogniser gave numbers that are not finite")
            return [(text, float(score)) for text, score in read]

        return _torch.in_batches_of_one_shape([tensor(line) for line in lines], run, self._device, "float32")

    def _written(self, read: Sequence[tuple[Any, str, float]]) -> list[TextLine]:
        """The lines of a picture, from corners, text and score of each."""
        from bidi import get_display

        if recogniser(self._options.languages).name == "arabic_g1":
            read = [(polygon, get_display(text), score) for polygon, text, score in read]
        lines = [
            TextLine(text.strip(), round(score, 4), tuple((round(float(x), 1), round(float(y), 1)) for x, y in polygon))
            for polygon, text, score in read
            if text.strip() and score >= self._options.text_score
        ]
        return _lines.reading_order(lines)

    def load(self) -> None:
        """Load detector and recogniser.

        Raises:
            UserError: the device or a model is not available, or a file holds another model.
        """
        from easyocr.craft import CRAFT

        self._device = _torch.device(self._device_name)
        self._detector = self._loaded(CRAFT(pretrained=False), self._options.files()[0])
        self._reader = self._recogniser()

    def _recogniser(self) -> tuple[Any, Any, list[int]]:
        """The recogniser, what turns its numbers into text, and which characters it is not asked for."""
        from easyocr import config
        from easyocr.model import model, vgg_model
        from easyocr.utils import CTCLabelConverter

        chosen = recogniser(self._options.languages)
        known = config.recognition_models[chosen.generation][chosen.name]
        converter = CTCLabelConverter(known["characters"])
        if chosen.generation == "gen1":
            network = model.Model(1, 512, 512, len(converter.character))
        else:
            network = vgg_model.Model(1, 256, 256, len(converter.character))
        wanted = set(known.get("symbols") or "0123456789!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ")
        for language in self._options.languages:
            file = Path(config.BASE_PATH) / "character" / f"{language}_char.txt"
            wanted.update("".join(file.read_text(encoding="utf-8-sig").splitlines()))
        characters = known["characters"]  # some twice, of which EasyOCR passes over the first
        ignored = sorted(characters.index(character) + 1 for character in set(characters) - wanted)
        return self._loaded(network, self._options.files()[1]), converter, ignored

    def _loaded(self, network: Any, file: Path) -> Any:
        weights = {name.removeprefix("module."): value for name, value in load_weights(file).items()}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise UserError(
                f"ocr.easyocr: {file} is no model of EasyOCR's for {', '.join(self._options.languages)}: {first}"
            ) from None
        return network.eval().to(self._device)
