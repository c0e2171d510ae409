"""What every extractor that reads pictures promises: its results depend on the picture and its fingerprint alone."""

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.kinds import KINDS
from pipeline.core.store import Store, digest
from pipeline.engine.run import extract
from pipeline.extractors import _torch, effnet_lite, resnet
from pipeline.extractors.base import PreparingExtractor
from pipeline.extractors.registry import choose
from pipeline.images.listing import list_pictures
from pipeline.images.manifest import manifest
from pipeline.settings.params import ExecutionParams, ImagesParams
from tests.conftest import ROOT
from tests.pipeline.extractors.cases import Failing, make, ready, rows_of, same

needs_tesseract = pytest.mark.skipif(
    shutil.which("tesseract") is None, reason="tesseract is not installed (apt-get install tesseract-ocr)"
)
SERVED = ("http_objects", "http_captions", "http_ocr")
NAMES = (
    "blip",
    "blip_sampling",
    "blip_2",
    "git",
    "florence2_captions",
    "florence2_objects",
    "florence2_ocr",
    "vlm_captions",
    "vlm_ocr",
    "yolos",
    "rt_detr",
    "rf_detr",
    "grounding_dino",
    "owlv2",
    "yolox",
    "attributes",
    "rapidocr",
    "resnet",
    "torchvision",
    "backbone",
    "effnet_lite",
    *SERVED,
    pytest.param("tesseract", marks=needs_tesseract),
)


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_batch(name: str, sections: Any, pictures: list[Image.Image]) -> None:
    extractor = ready(sections[name])
    alone = [extractor.extract([picture])[0] for picture in pictures]
    kind = sections[name][0]
    assert any(map(len, alone)), "nothing found, nothing compared"
    assert all(map(KINDS[kind].dump, alone)), "each is a result of this kind"
    for size in (3, 16):
        found = [items for start in range(0, 16, size) for items in extractor.extract(pictures[start : start + size])]
        assert same(found, alone), size
    order = np.random.default_rng(1).permutation(16)
    shuffled = extractor.extract([pictures[place] for place in order])
    assert same(shuffled, [alone[place] for place in order])
    assert list(extractor.extract([])) == []
    if isinstance(extractor, PreparingExtractor):
        assert same(extractor.extract_prepared([extractor.prepare(picture) for picture in pictures]), alone)


TOO_LONG = {"yolos": 6, "grounding_dino": 128}
"""Where so little is left of a strip's shorter side that these see nothing of it."""


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_any_size_are_read(name: str, sections: Any) -> None:
    """A pixel, a line three pixels high, a strip: each gives a list, or an error that the engine makes a row of."""
    extractor = ready(sections[name])
    for size in ((1, 1), (3, 3), (50, 3), (3, 50), (1000, 2), (2000, 1500)):
        picture = Image.new("RGB", size, (200, 30, 30))
        if max(size) > TOO_LONG.get(name, 10_000) * min(size):
            with pytest.raises(ValueError, match=r"(?i)height"):
                extractor.extract([picture])
        else:
            assert len(extractor.extract([picture])) == 1, size


@pytest.mark.parametrize("name", NAMES)
def test_through_the_engine(name: str, sections: Any, pictures: list[Image.Image], tmp_path: Path) -> None:
    kind, section = sections[name]
    folder = tmp_path / "images"
    folder.mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:02}.png")
    outputs: list[bytes] = []
    for batch_size in (5, 5, 16):
        output = tmp_path / f"{len(outputs)}.jsonl"
        with Store.open(tmp_path / f"store {len(outputs)}") as store:
            rows = manifest(list_pictures(folder), folder, ImagesParams())
            summary = extract(kind, make((kind, section)), rows, folder, output, store, batch_size)
        assert (summary.read, summary.failed) == (16, 0)
        files = sorted(output.iterdir()) if output.is_dir() else [output]
        outputs.append(b"".join(file.read_bytes() for file in files))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("name", NAMES)
def test_memory_that_runs_out_and_a_bad_picture_cost_one_row(
    name: str, sections: Any, pictures: list[Image.Image], tmp_path: Path
) -> None:
    kind, section = sections[name]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number:02}.png")
    failing = Failing(ready((kind, section)), pictures[5])
    with Store.open(tmp_path / "store") as store:
        rows = list(manifest(list_pictures(tmp_path), tmp_path, ImagesParams()))
        summary = extract(kind, failing, rows, tmp_path, tmp_path / "out.jsonl", store, 16)
    assert (summary.read, summary.failed) == (15, 1)
    assert failing.sizes[0] == 16
    assert failing.sizes.count(8) == 1, "the half that failed is not tried again"
    found = rows_of(kind, tmp_path / "out.jsonl")
    assert [(name, error) for name, status, error, _ in found if status != "ok"] == [("05.png", "RuntimeError: choked")]
    good = [number for number in range(16) if number != 5]
    assert same(
        [found[number][3] for number in good], ready((kind, section)).extract([pictures[number] for number in good])
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_loaded_when_there_is_something_to_read(name: str, sections: Any) -> None:
    kind, section = sections[name]
    code = f"""
import sys
from pathlib import Path
from pipeline.engine.run import extract
from pipeline.extractors.registry import choose
from pipeline.core.store import Store
section = {section!r}
choose({kind!r}, section)
choose({kind!r}, section).require()
extractor = choose({kind!r}, section).create()
extract({kind!r}, extractor, [], None, Path(sys.argv[1]) / "out.jsonl", Store.open(sys.argv[1]))
heavy = {{"torch", "transformers", "onnxruntime", "cv2", "rapidocr"}} & set(sys.modules)
assert not heavy, heavy
"""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-c", code, place], cwd=ROOT, check=True)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> "Counter[tuple[str, str, bool]]":
    """How often each loader is called: its name, what it loads, and whether by the main thread."""
    import onnxruntime
    import rapidocr

    counted: Counter[tuple[str, str, bool]] = Counter()

    def count(owner: Any, name: str, what: Callable[..., object]) -> None:
        load = getattr(owner, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            counted[name, str(what(*arguments)), threading.current_thread() is threading.main_thread()] += 1
            time.sleep(0.05)  # others come meanwhile
            return load(*arguments, **options)

        monkeypatch.setattr(owner, name, counting)

    count(_torch, "load", lambda _class, folder, *_: folder)
    count(_torch, "image_processor", lambda folder, _name: folder)
    for module in (resnet, effnet_lite):
        count(module, "load_weights", lambda file: file)
    count(onnxruntime, "InferenceSession", lambda *arguments: arguments[0])
    count(rapidocr, "RapidOCR", lambda *_: "")
    return counted


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(name, str) and name not in SERVED])
def test_models_are_loaded_by_load_alone_however_many_threads_use_them(
    name: str,
    sections: Any,
    pictures: list[Image.Image],
    loads: "Counter[tuple[str, str, bool]]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the engine uses them: pictures are prepared by several threads, and the model splits a batch among more.

    While a model of torch is loaded in another number format, that is the default of every thread.
    """
    import torch

    kind, section = sections[name]
    if section["extractor"] in ("blip", "transformers", "florence2", "vlm") or kind == "features":
        section = {**section, section["extractor"]: {**section[section["extractor"]], "dtype": "bfloat16"}}
    monkeypatch.setattr(_torch, "cores", lambda: 4)
    _torch._pool.cache_clear()
    extractor = make((kind, section))
    extractor.fingerprint()
    assert not loads
    extractor.load()  # type: ignore[attr-defined]
    assert loads
    start = threading.Barrier(4)

    def prepare(picture: Image.Image) -> Any:
        start.wait()
        return extractor.prepare(picture)  # type: ignore[attr-defined]

    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(prepare, pictures[8:]))
    assert len(extractor.extract_prepared(prepared)) == 8  # type: ignore[attr-defined]
    _torch._pool.cache_clear()
    assert set(loads.values()) == {1}
    assert all(by_main for *_, by_main in loads)
    assert torch.get_default_dtype() == torch.float32


CHANGES: dict[str, list[dict[str, Any]]] = {
    "blip": [
        {"num_captions": 1},
        {"num_beams": 4},
        {"max_new_tokens": 9},
        {"prompt": "a picture of"},
        {"dtype": "bfloat16"},
        {"decoding": "nucleus"},
    ],
    "blip_sampling": [
        {"num_captions": 1},
        {"max_new_tokens": 9},
        {"prompt": "a picture of"},
        {"dtype": "bfloat16"},
        {"decoding": "beams"},
        {"top_p": 0.8},
        {"temperature": 0.5},
        {"seed": 2},
    ],
    "florence2_captions": [
        {"task": "detailed_caption"},
        {"num_beams": 3},
        {"max_new_tokens": 9},
        {"dtype": "bfloat16"},
    ],
    "florence2_objects": [
        {"task": "dense_region_caption"},
        {"max_objects": 3},
        {"num_beams": 3},
        {"max_new_tokens": 9},
        {"dtype": "bfloat16"},
    ],
    "florence2_ocr": [{"num_beams": 3}, {"max_new_tokens": 9}, {"dtype": "bfloat16"}],
    "yolos": [{"threshold": 0.6}, {"max_objects": 3}, {"dtype": "bfloat16"}, {"classes": ["a", "b", "c"]}],
    "grounding_dino": [{"labels": ["dog"]}, {"threshold": 0.4}, {"max_objects": 3}, {"dtype": "bfloat16"}],
    "owlv2": [{"labels": ["dog"]}, {"template": "a {}"}, {"threshold": 0.4}, {"max_objects": 3}, {"dtype": "bfloat16"}],
    "yolox": [
        {"threshold": 0.6},
        {"nms": 0.9},
        {"class_agnostic": False},
        {"max_objects": 3},
        {"classes": ["person", "dog", "cat"]},
    ],
    "rapidocr": [
        {"limit_type": "min"},
        {"limit_side_len": 640},
        {"text_score": 0.7},
        {"box_thresh": 0.6},
        {"unclip_ratio": 2.0},
        {"use_cls": True},
        {"space_thresh": 0.5},
        {"max_side_len": 1600},
        {"strips_above": 4.0},
        {"strip_ratio": 2.0},
        {"strip_overlap": 0.5},
        {"max_boxes": 100},
    ],
    "tesseract": [{"languages": ["osd"]}, {"page_segmentation": 11}, {"text_score": 0.7}],
}


for asked in ("vlm_captions", "vlm_ocr"):
    CHANGES[asked] = [
        {"prompt": "the dog"},
        {"template": {"thinking": True}},
        {"max_side": 40},
        {"max_new_tokens": 9},
        {"dtype": "bfloat16"},
    ]
for grid in ("resnet", "torchvision", "backbone", "effnet_lite"):
    CHANGES[grid] = [{"resize": "crop"}, {"side": 96}, {"grid": 1}, {"dtype": "bfloat16"}]

UNREAD: dict[str, dict[str, Any]] = {
    "grounding_dino": {"template": "the {}", "max_labels": 3},
    "owlv2": {"max_labels": 3},
    "blip": {"top_p": 0.5, "temperature": 2.0, "seed": 5},
    "blip_sampling": {"num_beams": 7},
    "vlm_captions": {"environment": "vlm"},
    "vlm_ocr": {"environment": "vlm"},
}
"""Options that say nothing to this architecture or decoding."""


@pytest.mark.parametrize(
    "name", [*(name for name in CHANGES if name != "tesseract"), pytest.param("tesseract", marks=needs_tesseract)]
)
def test_the_fingerprint_changes_when_the_result_can_and_only_then(name: str, sections: Any, tmp_path: Path) -> None:
    kind, section = sections[name]
    key = section["extractor"]
    first = digest(make((kind, section)).fingerprint())
    assert digest(make((kind, section), ExecutionParams(device="auto", ocr_threads=1)).fingerprint()) == first
    assert isinstance(make((kind, section)).fingerprint()["version"], int)
    found = [
        digest(make((kind, {**section, key: {**section[key], **change}})).fingerprint()) for change in CHANGES[name]
    ]
    assert len({first, *found}) == 1 + len(found)
    options = set(type(choose(kind, section).create()).Options.model_fields)  # type: ignore[union-attr]
    unread = set(UNREAD.get(name, {}))
    assert options - {"model", "revision"} - unread == {option for change in CHANGES[name] for option in change}
    if "model" not in options:
        return
    assert digest(make((kind, {**section, key: {**section[key], **UNREAD.get(name, {})}})).fingerprint()) == first
    moved, model = tmp_path / "moved", Path(section[key]["model"])
    if model.is_file():
        shutil.copy(model, moved)
    else:
        shutil.copytree(model, moved)
        (moved / "README.md").write_text("A card, which no model reads.")

    def after() -> str:
        return digest(make((kind, {**section, key: {**section[key], "model": str(moved)}})).fingerprint())

    assert after() == first, "the same files elsewhere are the same model"
    changed = first
    if moved.is_dir():
        [processor] = moved.glob("*processor_config.json")
        processor.write_text(processor.read_text().replace("0.5", "0.4") + " ")
        changed = after()
        assert changed != first
    weights = moved / "model.safetensors" if moved.is_dir() else moved
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert after() not in (first, changed)
