"""What an adapter promises, checked in its own interpreter: ``python -m tests.envs.contract CASE FOLDER CHECK …``.

There is no pytest in there: each check is a function, and what became of it is a line of JSON on stdout, for
tests/envs/test_adapters.py to read. `FOLDER/pictures` has the pictures; the models are written beside it.
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.kinds import KINDS
from pipeline.core.records import ObjectTag
from pipeline.core.store import Store, digest
from pipeline.engine.run import extract
from pipeline.extractors.base import PreparingExtractor
from pipeline.extractors.registry import choose
from pipeline.images.listing import list_pictures
from pipeline.images.manifest import manifest
from pipeline.settings.params import ExecutionParams, ImagesParams
from tests.envs.cases import Pictures, Section, changed, mistake, options_of, write
from tests.envs.own_checks import (
    check_against_detectron2,
    check_against_easyocr,
    check_against_lavis,
    check_arabic,
    check_catalogue,
    check_languages,
    check_zoo_pickle,
)
from tests.pipeline.extractors.cases import Failing, make, ready, rows_of, same, write_clip

Check = Callable[[Section, Pictures], None]

OUTLIERS = ((1, 1), (3, 3), (50, 3), (3, 50), (350, 5))

CHANGES: dict[str, list[dict[str, Any]]] = {
    "beams": [
        {"num_captions": 1},
        {"num_beams": 4},
        {"max_length": 17},
        {"min_length": 5},
        {"dtype": "bfloat16"},
        {"decoding": "nucleus"},
    ],
    "nucleus": [
        {"num_captions": 1},
        {"top_p": 0.8},
        {"seed": 2},
        {"max_length": 17},
        {"min_length": 5},
        {"dtype": "bfloat16"},
        {"decoding": "beams"},
    ],
    "faster_rcnn": [{"threshold": 0.6}, {"max_objects": 3}, {"classes": ["a", "b", "d"]}, {"dtype": "bfloat16"}],
    "qwen3_vl": [
        {"prompt": "the dog"},
        {"template": {"thinking": True}},
        {"max_side": 40},
        {"max_new_tokens": 9},
        {"dtype": "bfloat16"},
    ],
    "en": [
        {"languages": ["de"]},
        {"canvas_size": 64},
        {"mag_ratio": 2.0},
        {"text_threshold": 0.5},
        {"low_text": 0.3},
        {"link_threshold": 0.3},
        {"width_ths": 0.7},
        {"min_size": 10},
        {"text_score": 0.5},
    ],
}
"""For a case of each adapter, every option that changes its results."""

UNREAD: dict[str, dict[str, Any]] = {
    "beams": {"top_p": 0.5, "seed": 5},
    "nucleus": {"num_beams": 7},
    "qwen3_vl": {"environment": None},
}
PLACES = {"model", "revision", "weights", "models", "tokenizer", "config", "name", "model_type"}
"""Options that name files; what is in these counts."""


def check_batches(section: Section, pictures: Pictures) -> None:
    """The same result in batches of 1, 3 and 16 and in any order, and none for none."""
    extractor = ready(section)
    alone = [extractor.extract([picture])[0] for picture in pictures]
    assert sum(map(bool, alone)) > len(alone) / 2, "too little found to compare"
    assert len({str(items) for items in alone}) > len(alone) / 2, "the pictures are told apart"
    assert all(map(KINDS[section[0]].dump, alone)), "each is a result of this kind"
    for size in (3, 16):
        found = [items for start in range(0, 16, size) for items in extractor.extract(pictures[start : start + size])]
        assert same(found, alone), size
    order = np.random.default_rng(1).permutation(16)
    assert same(extractor.extract([pictures[place] for place in order]), [alone[place] for place in order])
    assert list(extractor.extract([])) == []
    assert isinstance(extractor, PreparingExtractor)
    assert same(extractor.extract_prepared([extractor.prepare(picture) for picture in pictures]), alone)


def check_outliers(section: Section, pictures: Pictures) -> None:
    """A pixel, a line, a strip: each gives a list."""
    extractor = ready(changed(section, canvas_size=512) if "canvas_size" in options_of(section) else section)
    for size in OUTLIERS:
        assert len(extractor.extract([Image.new("RGB", size, (200, 30, 30))])) == 1, size


def check_engine(section: Section, pictures: Pictures) -> None:
    """Memory that runs out halves the batch, and a picture that cannot be read costs one row."""
    kind = section[0]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        for number, picture in enumerate(pictures):
            picture.save(folder / f"{number:02}.png")
        failing = Failing(ready(section), pictures[5])
        with Store.open(Path(place) / "store") as store:
            rows = list(manifest(list_pictures(folder), folder, ImagesParams()))
            summary = extract(kind, failing, rows, folder, Path(place) / "out.jsonl", store, 16)
        assert (summary.read, summary.failed) == (15, 1), summary
        assert failing.sizes[0] == 16
        assert failing.sizes.count(8) == 1, "the half that failed is not tried again"
        found = rows_of(kind, Path(place) / "out.jsonl")
    assert [(name, error) for name, status, error, _ in found if status != "ok"] == [("05.png", "RuntimeError: choked")]
    good = [number for number in range(16) if number != 5]
    assert same([found[number][3] for number in good], ready(section).extract([pictures[number] for number in good]))


def check_fingerprint(section: Section, pictures: Pictures, case: str) -> None:
    """It changes when the result can, and only then."""

    def fingerprint(**options: Any) -> str:
        return digest(make(changed(section, **options)).fingerprint())

    first = fingerprint()
    assert isinstance(make(section).fingerprint()["version"], int)
    assert digest(make(section, ExecutionParams(device="auto", ocr_threads=1)).fingerprint()) == first
    if case not in CHANGES:
        return
    fields = set(type(choose(*section).create()).Options.model_fields)  # type: ignore[union-attr]
    unread = UNREAD.get(case, {})
    assert fields - PLACES - set(unread) == {option for change in CHANGES[case] for option in change}
    found = [fingerprint(**change) for change in CHANGES[case] if "languages" not in change]
    assert len({first, *found}) == 1 + len(found)
    assert fingerprint(**unread) == first
    for option in PLACES & set(options_of(section)):
        check_files(section, option, first)


def check_files(section: Section, option: str, first: str) -> None:
    """A file elsewhere is the same file; another byte in it, and it is another."""
    given = Path(options_of(section)[option])
    with tempfile.TemporaryDirectory() as place:
        files = sorted(given.iterdir()) if given.is_dir() else [given]
        for file in files:
            (Path(place) / file.name).write_bytes(file.read_bytes())
        moved = changed(section, **{option: place if given.is_dir() else str(Path(place) / given.name)})
        assert digest(make(moved).fingerprint()) == first, option
        for file in files:
            with (Path(place) / file.name).open("ab") as stream:
                stream.write(b"\n")
            now = digest(make(moved).fingerprint())
            assert now != first, file
            first = now


def check_broken_files(section: Section, pictures: Pictures) -> None:
    """Weights that are missing, a pickle, or of something else are the user's mistake, and said to be."""
    if section[1]["extractor"] == "vlm":
        check_broken_checkpoint(section)
    else:
        check_broken_weights(section, pictures)


def check_broken_weights(section: Section, pictures: Pictures) -> None:
    """Files of weights, as adapters name them that read no checkpoint."""
    import torch

    option = "models" if section[0] == "ocr" else "weights"
    given = options_of(section)[option]
    with tempfile.TemporaryDirectory() as place:
        assert "no such file" in mistake(lambda: choose(*changed(section, **{option: f"{place}/nothing"})).require())
        if option == "models":
            for file in Path(given).iterdir():
                torch.save({"module.weight": torch.ones(1)}, Path(place) / file.name)
            other = place
        else:
            (Path(place) / "zoo.pkl").write_bytes(b"")
            assert "python -m pipeline.checkpoints convert" in mistake(
                lambda: choose(*changed(section, weights=f"{place}/zoo.pkl")).require()
            )
            other = f"{place}/weights.pth"
            torch.save({"model": {"weight": torch.ones(1)}}, other)
        found = mistake(lambda: ready(changed(section, **{option: other})).extract(pictures[:1]))
        assert place in found, found


def check_broken_checkpoint(section: Section) -> None:
    """A folder that is missing, or has not all of the model's weights."""
    from safetensors.torch import load_file, save_file

    given = Path(options_of(section)["model"])
    with tempfile.TemporaryDirectory() as place:
        assert "no such folder" in mistake(lambda: choose(*changed(section, model=f"{place}/nothing")).require())
        for file in given.iterdir():
            (Path(place) / file.name).write_bytes(file.read_bytes())
        weights = load_file(given / "model.safetensors")
        kept = {name: values for name, values in weights.items() if "embed_tokens" not in name}
        save_file(kept, Path(place) / "model.safetensors", metadata={"format": "pt"})
        assert "it lacks " in mistake(lambda: ready(changed(section, model=place)))


def check_half_precision(section: Section, pictures: Pictures) -> None:
    """bfloat16 gives results too."""
    assert all(ready(changed(section, dtype="bfloat16")).extract(pictures[:3]))


def check_attributes(section: Section, pictures: Pictures) -> None:
    """CLIP adds attributes to the tags, in the same interpreter."""
    with tempfile.TemporaryDirectory() as place:
        attributes = {
            "model": str(write_clip(Path(place) / "clip")),
            "labels": ["red", "blue", "snow"],
            "threshold": 0.3,
        }
        found = ready((section[0], {**section[1], "attributes": attributes})).extract(pictures[:4])
    tags = [item for items in found for item in items if isinstance(item, ObjectTag)]
    assert any(tag.attribute in ("red", "blue", "snow") for tag in tags)


COMMON: dict[str, Check] = {
    "batches": check_batches,
    "outliers": check_outliers,
    "engine": check_engine,
    "broken_files": check_broken_files,
}
OWN: dict[str, dict[str, Check]] = {
    "beams": {"half_precision": check_half_precision, "against_lavis": check_against_lavis},
    "faster_rcnn": {
        "half_precision": check_half_precision,
        "against_detectron2": check_against_detectron2,
        "attributes": check_attributes,
        "catalogue": check_catalogue,
        "zoo_pickle": check_zoo_pickle,
    },
    "mask_rcnn": {"against_detectron2": check_against_detectron2},
    "retinanet": {"against_detectron2": check_against_detectron2},
    "qwen3_vl": {"half_precision": check_half_precision},
    "en": {"against_easyocr": check_against_easyocr, "languages": check_languages, "arabic": check_arabic},
}


def checks(case: str) -> list[str]:
    """The names of all that is checked of a case."""
    return [*COMMON, "fingerprint", *OWN.get(case, {})]


def main(case: str, folder: Path, names: Sequence[str]) -> None:
    """Run these checks of a case, and print a line for each: its name, and null or what went wrong."""
    pictures = [Image.open(file).convert("RGB") for file in sorted((folder / "pictures").iterdir())]
    section = write(case, folder / "models", pictures)
    (folder / "section.json").write_text(json.dumps(section[1]))
    for name in names:
        try:
            if name == "fingerprint":
                check_fingerprint(section, pictures, case)
            else:
                {**COMMON, **OWN.get(case, {})}[name](section, pictures)
            trouble = None
        except Exception:  # whatever it is, the test that started this process shows it
            trouble = traceback.format_exc()
        print(json.dumps({"check": name, "trouble": trouble}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
