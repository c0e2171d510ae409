"""The extraction engine's speed: against the model alone, against the loop a user would write, and on finished work.

``python -m benchmarks.extraction``. The models are BLIP base, RT-DETR with ResNet-50 and, for features, ResNet-152, of
their true size with random weights (speed does not depend on what they say); OCR is RapidOCR with its own models.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import Ratio, machine, median_seconds, report
from benchmarks.extraction_http import compare_requests
from benchmarks.extraction_one_pass import compare_one_pass
from benchmarks.extraction_store import compare_images, compare_store
from pipeline.core.errors import UserError, run_cli
from pipeline.core.machine import cores
from pipeline.core.store import Store
from pipeline.engine import run as extraction
from pipeline.extractors import registry
from pipeline.extractors.base import load
from pipeline.extractors.rapidocr import RapidOcrOptions
from pipeline.images import manifest as images
from pipeline.images import pictures as places
from pipeline.images.listing import list_pictures
from pipeline.settings.params import ExecutionParams, ImagesParams

MODELS = ("captions", "objects", "features")
PARTS = (*MODELS, "ocr", "http", "one_pass", "store", "images")
LIMITS = ImagesParams()
BEAMS, NEW_TOKENS = 3, 20
ENGINE = {"cpu": 0.95, "cuda": 0.90}  # of the model's own throughput
LOOP: dict[str, dict[str, float | None]] = {  # over a loop, one picture at a time
    "captions": {"cpu": 1.3, "cuda": 4.0},
    "objects": {"cpu": None, "cuda": 4.0},
    "features": {"cpu": None, "cuda": None},
}
OCR_LOOP = 1.6


class Pictures:
    """A folder of pictures: their rows in the manifest, and the pictures decoded."""

    def __init__(self, folder: Path, count: int) -> None:
        rows = [row for row in images.manifest(list_pictures(folder), folder, LIMITS) if row.status == "ok"]
        if not rows:
            raise UserError(f"--images {folder}: no picture there that can be read")
        self.folder, self.rows = folder, rows[:count]

    def decoded(self) -> list[Image.Image]:
        """The pictures, upright RGB."""
        folder = places.Folder(self.folder, LIMITS)
        return [places.load(folder, row.image, str(row.sha256), LIMITS) for row in self.rows]


def write_blip(folder: Path) -> Path:
    """BLIP base with random weights, which never ends a caption before its last token."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    torch.manual_seed(0)
    special = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    folder.mkdir(parents=True)
    config = BlipConfig(text_config={"bos_token_id": 101, "eos_token_id": 102, "sep_token_id": 102, "pad_token_id": 0})
    words = [f"w{number}" for number in range(config.text_config.vocab_size - len(special))]
    (folder / "vocab.txt").write_text("\n".join([*special, *words]), encoding="utf-8")
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[: len(special)] = -1e4
    model.save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 384, "width": 384}).save_pretrained(folder)
    return folder


def write_rt_detr(folder: Path) -> Path:
    """RT-DETR with ResNet-50 and random weights, for pictures of 640 by 640 pixels."""
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessorPil

    torch.manual_seed(0)
    RTDetrForObjectDetection(RTDetrConfig()).save_pretrained(folder)
    RTDetrImageProcessorPil().save_pretrained(folder)
    return folder


def write_resnet(folder: Path) -> Path:
    """ResNet-152 with random weights."""
    from transformers import BlipImageProcessorPil, ResNetConfig, ResNetModel

    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(depths=[3, 8, 36, 3]))
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith(".layer.2.normalization.weight"):
                values.fill_(0.2)  # else fifty blocks that add up leave the range of float16
    model.save_pretrained(folder)
    size = {"height": 224, "width": 224}
    BlipImageProcessorPil(size=size, resample=Image.Resampling.BILINEAR).save_pretrained(folder)
    return folder


def write_model(kind: str, folder: Path) -> Path:
    """The checkpoint of a kind below `folder`, written where it is not there."""
    writers = {"captions": write_blip, "objects": write_rt_detr, "features": write_resnet}
    target = folder / kind
    if not (target / "preprocessor_config.json").exists():
        shutil.rmtree(target, ignore_errors=True)
        writers[kind](target)
    return target


def adapter(kind: str, model: Path, device: str, dtype: str) -> Any:
    """The adapter as a stage makes it."""
    options: dict[str, Any] = {"model": str(model), "dtype": dtype}
    if kind == "captions":
        section = {"extractor": "blip", "blip": {**options, "num_beams": BEAMS, "max_new_tokens": NEW_TOKENS}}
    elif kind == "features":
        section = {"extractor": "resnet", "resnet": options}
    else:
        section = {"extractor": "transformers", "transformers": {**options, "threshold": 0.5}}
    return loaded(registry.choose(kind, section).create(ExecutionParams(device=device)))


def loaded(extractor: Any) -> Any:
    """The extractor with its model loaded, which the engine then does not do again: loading is not what is timed."""
    load(extractor)
    extractor.load = lambda: None
    return extractor


def run_engine(kind: str, extractor: Any, pictures: Pictures, batch_size: int, workers: int) -> str:
    """All pictures through the engine, with a store that holds nothing yet; what it wrote, where that is text."""
    with tempfile.TemporaryDirectory() as scratch, Store.open(scratch) as store:
        output = Path(scratch) / "rows.jsonl"
        extraction.extract(kind, extractor, pictures.rows, pictures.folder, output, store, batch_size, workers, LIMITS)
        return output.read_text(encoding="utf-8") if output.is_file() else ""


def caption_loop(model: Path, device: str, dtype: str) -> Callable[[Pictures], list[str]]:
    """The loop that a user would write with transformers: open, preprocess, generate, one picture at a time."""
    from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

    processor, tokenizer = BlipImageProcessorPil.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    captioner = BlipForConditionalGeneration.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()

    def read(picture: Image.Image, pixels: torch.Tensor) -> str:
        tokens = captioner.generate(pixel_values=pixels, num_beams=BEAMS, max_new_tokens=NEW_TOKENS)
        return str(tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()

    return partial(_one_by_one, processor, captioner, read)


def object_loop(model: Path, device: str, dtype: str) -> Callable[[Pictures], list[Any]]:
    """The same for a detector."""
    from transformers import RTDetrForObjectDetection, RTDetrImageProcessorPil

    processor = RTDetrImageProcessorPil.from_pretrained(model)
    detector = RTDetrForObjectDetection.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()

    def read(picture: Image.Image, pixels: torch.Tensor) -> Any:
        output = detector(pixel_values=pixels)
        return processor.post_process_object_detection(output, threshold=0.5, target_sizes=[picture.size[::-1]])[0]

    return partial(_one_by_one, processor, detector, read)


def feature_loop(model: Path, device: str, dtype: str) -> Callable[[Pictures], list[Any]]:
    """The same for features."""
    from transformers import BlipImageProcessorPil, ResNetModel

    processor = BlipImageProcessorPil.from_pretrained(model)
    network = ResNetModel.from_pretrained(model, dtype=getattr(torch, dtype)).to(device).eval()

    def read(picture: Image.Image, pixels: torch.Tensor) -> Any:
        return network(pixels).last_hidden_state[0].flatten(1).T.half().cpu().numpy()

    return partial(_one_by_one, processor, network, read)


LOOPS: dict[str, Callable[[Path, str, str], Callable[[Pictures], list[Any]]]] = {
    "captions": caption_loop,
    "objects": object_loop,
    "features": feature_loop,
}


def _one_by_one(
    processor: Any, model: Any, read: Callable[[Image.Image, torch.Tensor], Any], pictures: Pictures
) -> list[Any]:
    found = []
    for row in pictures.rows:
        picture = Image.open(pictures.folder / row.image).convert("RGB")
        pixels = processor(images=picture, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
        with torch.inference_mode():
            found.append(read(picture, pixels))
    return found


def compare_model(kind: str, pictures: Pictures, model: Path, arguments: argparse.Namespace) -> Iterator[Ratio]:
    """Engine over model alone, each at its best batch size; engine over loop."""
    device, dtype = arguments.device, arguments.dtype
    place = "cuda" if device.startswith("cuda") else "cpu"
    extractor = adapter(kind, model, device, dtype)
    prepared = [extractor.prepare(picture) for picture in pictures.decoded()]
    contestants: dict[str, Callable[[], object]] = {}
    for size in arguments.batches:
        batches = [prepared[start : start + size] for start in range(0, len(prepared), size)]
        contestants[f"model {size}"] = partial(_run_model, extractor, batches)
        contestants[f"engine {size}"] = partial(run_engine, kind, extractor, pictures, size, arguments.workers)
    loop = LOOPS[kind](model, device, dtype)
    contestants["loop"] = lambda: loop(pictures)
    if kind == "captions":
        _check_captions(run_engine(kind, extractor, pictures, arguments.batches[0], arguments.workers), loop(pictures))
    seconds = median_seconds(contestants, arguments.rounds, calls=1, device=device)
    best = {side: min((seconds[f"{side} {size}"], size) for size in arguments.batches) for side in ("model", "engine")}
    note = f"{dtype}, {len(pictures.rows)} pictures"
    yield Ratio(
        f"{kind}: engine (batch {best['engine'][1]}) / model alone (batch {best['model'][1]}), {note}",
        best["model"][0] / best["engine"][0],
        ENGINE[place],
    )
    yield Ratio(
        f"{kind}: engine / loop, one picture at a time, {note}", seconds["loop"] / best["engine"][0], LOOP[kind][place]
    )


def _run_model(extractor: Any, batches: Sequence[Sequence[Any]]) -> None:
    for batch in batches:
        extractor.extract_prepared(batch)


def _check_captions(rows: str, texts: Sequence[str]) -> None:
    """Both sides must say the same, but for what rounding decides between random weights.

    Raises:
        RuntimeError: they do not.
    """
    ours = [json.loads(line)["captions"][0]["text"] for line in rows.splitlines()]
    same = sum(one == other for one, other in zip(ours, texts, strict=True))
    if same < 0.8 * len(texts):
        raise RuntimeError(f"only {same} of {len(texts)} captions are those of the loop")


def compare_ocr(pictures: Pictures, rounds: int, workers: int) -> Iterator[Ratio]:
    """Side by side on all cores, over one picture at a time: on one thread, and on all that onnxruntime takes.

    Raises:
        RuntimeError: the text is not the same.
    """
    from rapidocr import RapidOCR

    options = RapidOcrOptions()
    section = {"extractor": "rapidocr", "rapidocr": options.model_dump()}
    one, all_cores = (
        loaded(registry.choose("ocr", section).create(ExecutionParams(device="cpu", ocr_threads=threads)))
        for threads in (1, 0)
    )
    if run_engine("ocr", one, pictures, 1, 1) != run_engine("ocr", all_cores, pictures, 8, workers):
        raise RuntimeError("OCR on all cores reads another text than one picture at a time")
    plain = RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": options.use_cls,
            "Det.limit_type": options.limit_type,
            "Det.limit_side_len": options.limit_side_len,
        }
    )

    def loop() -> list[Any]:
        return [
            plain(np.asarray(Image.open(pictures.folder / row.image).convert("RGB"))[:, :, ::-1])
            for row in pictures.rows
        ]

    seconds = median_seconds(
        {
            "one": lambda: run_engine("ocr", one, pictures, 1, 1),
            "loop": loop,
            "all": lambda: run_engine("ocr", all_cores, pictures, 8, workers),
        },
        rounds,
        calls=1,
    )
    n_cores = cores()
    note = f"{len(pictures.rows)} pictures, {n_cores} cores"
    yield Ratio(
        f"ocr: all cores / one picture at a time on one thread, {note}",
        seconds["one"] / seconds["all"],
        OCR_LOOP if n_cores == 2 else None,
    )
    yield Ratio(f"ocr: all cores / RapidOCR's own loop on all threads, {note}", seconds["loop"] / seconds["all"])


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.extraction", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} [all]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there, too")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        default=Path("sample/data/images"),
        help="pictures to read; those of your data tell most [%(default)s]",
    )
    parser.add_argument("--count", type=int, default=24, help="so many of them for the models [%(default)s]")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 8], help="batch sizes to try [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant [%(default)s]")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … [%(default)s]")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--workers", type=int, default=2, help="threads that decode [%(default)s]")
    parser.add_argument("--models", type=Path, metavar="DIR", help="keep the large random models there")
    parser.add_argument(
        "--rows",
        type=int,
        nargs=2,
        default=[10_000, 1_000_000],
        metavar=("FEW", "MANY"),
        help="in the store [%(default)s]",
    )
    parser.add_argument("--files", type=int, default=20_000, help="for the stage images [%(default)s]")
    arguments = parser.parse_args()
    parts = arguments.parts or list(PARTS)
    if unknown := sorted(set(parts) - set(PARTS)):
        raise UserError(f"{', '.join(unknown)}: no part of this benchmark; expected some of {', '.join(PARTS)}")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {arguments.device}: no GPU here; use cpu")
    with tempfile.TemporaryDirectory() as scratch:
        ratios = list(measure(parts, arguments, Path(scratch)))
    report(ratios, machine(arguments.device), arguments.json, {})


def measure(parts: Sequence[str], arguments: argparse.Namespace, scratch: Path) -> Iterator[Ratio]:
    """The ratios of the parts asked for, in the order of PARTS."""
    if {*MODELS, "ocr"} & set(parts):
        pictures = Pictures(arguments.images, arguments.count)
        for kind in MODELS:
            if kind in parts:
                yield from compare_model(kind, pictures, write_model(kind, arguments.models or scratch), arguments)
        if "ocr" in parts:
            yield from compare_ocr(pictures, arguments.rounds, arguments.workers)
    if "http" in parts:
        yield from compare_requests(arguments.rounds)
    if "one_pass" in parts:
        yield from compare_one_pass(5 * arguments.count)
    if "store" in parts:
        yield from compare_store(arguments.rows)
    if "images" in parts:
        yield from compare_images(arguments.files)


if __name__ == "__main__":
    run_cli(main)
