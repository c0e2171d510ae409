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

from pipeline.core.errors import UserError
from pipeline.core.kinds import KINDS
from pipeline.core.records import ObjectTag, TextLine
from pipeline.core.store import Store, digest
from pipeline.core.weights import convert
from pipeline.engine.run import extract
from pipeline.extractors import _boxes
from pipeline.extractors.base import PreparingExtractor
from pipeline.extractors.registry import choose
from pipeline.images.listing import list_pictures
from pipeline.images.manifest import manifest
from pipeline.settings.params import ExecutionParams, ImagesParams
from tests.envs import models
from tests.pipeline.extractors.cases import Failing, make, ready, same, write_clip

Section = tuple[str, dict[str, Any]]
Pictures = Sequence[Image.Image]
Check = Callable[[Section, Pictures], None]

CASES = {"lavis": ("beams", "nucleus"), "detectron2": ("faster_rcnn", "mask_rcnn", "retinanet"), "easyocr": ("en",)}
ZOO: dict[str, tuple[str, list[str] | None]] = {
    "faster_rcnn": ("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", ["a", "b", "c"]),
    "mask_rcnn": ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", ["a", "b", "c"]),
    "retinanet": ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", None),
}
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

UNREAD: dict[str, dict[str, Any]] = {"beams": {"top_p": 0.5, "seed": 5}, "nucleus": {"num_beams": 7}}
PLACES = {"model", "weights", "models", "tokenizer", "config", "name", "model_type"}
"""Options that name files; what is in these counts."""


def write(case: str, folder: Path, pictures: Pictures) -> Section:
    """The section of params of a case, and the models that it names, in `folder`."""
    if case in CASES["lavis"]:
        sampled = {"num_captions": 3, "decoding": "nucleus"} if case == "nucleus" else {"num_captions": 2}
        return "captions", {"extractor": "lavis", "lavis": {**models.write_lavis(folder), **sampled}}
    if case in CASES["easyocr"]:
        return "ocr", {"extractor": "easyocr", "easyocr": models.write_easyocr(folder, pictures, "en")}
    return "objects", {"extractor": "detectron2", "detectron2": models.write_detectron2(folder, *ZOO[case])}


def changed(section: Section, **options: Any) -> Section:
    kind, values = section
    name = values["extractor"]
    return kind, {**values, name: {**values[name], **options}}


def options_of(section: Section) -> dict[str, Any]:
    options: dict[str, Any] = section[1][section[1]["extractor"]]
    return options


def check_batches(section: Section, pictures: Pictures) -> None:
    """The same result in batches of 1, 3 and 16 and in any order, and none for none."""
    extractor = ready(section)
    alone = [extractor.extract([picture])[0] for picture in pictures]
    assert sum(map(bool, alone)) > len(alone) / 2, "too little found to compare"
    assert len({str(items) for items in alone}) > len(alone) / 2, "the pictures are told apart"
    assert all(isinstance(item, KINDS[section[0]].item) for items in alone for item in items)
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
        found = list(KINDS[kind].read(Path(place) / "out.jsonl"))
    assert [(row.image, row.error) for row in found if row.status != "ok"] == [("05.png", "RuntimeError: choked")]
    good = [number for number in range(16) if number != 5]
    assert same([found[number].items for number in good], ready(section).extract([pictures[number] for number in good]))


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


def mistake(action: Callable[[], object]) -> str:
    try:
        action()
    except UserError as error:
        return str(error)
    raise AssertionError("no UserError")


def check_half_precision(section: Section, pictures: Pictures) -> None:
    """bfloat16 gives results too."""
    assert all(ready(changed(section, dtype="bfloat16")).extract(pictures[:3]))


def check_against_lavis(section: Section, pictures: Pictures) -> None:
    """By beams, the best caption is the one that LAVIS' own generate() gives; scores are what greedy decoding saw."""
    import torch

    extractor: Any = ready(changed(section, num_captions=1))
    pixels = torch.stack([extractor.prepare(picture) for picture in pictures])
    with torch.inference_mode():
        expected = extractor._model.generate({"image": pixels}, num_beams=3, max_length=16, min_length=6)
        assert [captions[0].text for captions in extractor.extract(pictures)] == expected
        greedy: Any = ready(changed(section, num_captions=1, num_beams=1, min_length=0))
        seen, prompt = greedy._model.forward_encoder({"image": pixels[:1]}), greedy._prompt
        output = greedy._model.text_decoder.generate(
            input_ids=prompt,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2]).long(),
            max_length=16,
            eos_token_id=3,
            pad_token_id=0,
            output_scores=True,
            return_dict_in_generate=True,
        )
        best = [step.log_softmax(-1).max().item() for step in output.scores]
    assert abs(greedy.extract(pictures[:1])[0][0].score - np.exp(np.mean(best))) < 2e-4


def check_against_detectron2(section: Section, pictures: Pictures) -> None:
    """The boxes, classes and scores of detectron2's own predictor, one picture at a time."""
    import torch
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultPredictor
    from safetensors.torch import load_file

    torch.set_num_threads(1)  # as the adapter does: where two boxes are all but equally good, noise decides
    options = options_of(section)
    config = get_cfg()
    config.merge_from_file(options["model"])
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = config.MODEL.RETINANET.SCORE_THRESH_TEST = options["threshold"]
    config.TEST.DETECTIONS_PER_IMAGE = options["max_objects"]
    predictor = DefaultPredictor(config)
    predictor.model.load_state_dict(load_file(options["weights"]))
    extractor: Any = ready(section)
    expected = []
    for picture in pictures:
        found = predictor(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))["instances"]
        expected.append(
            [
                _boxes.tag(extractor._names[label], score, box, found.image_size)
                for score, label, box in zip(
                    found.scores.tolist(), found.pred_classes.tolist(), found.pred_boxes.tensor.tolist(), strict=True
                )
            ]
        )
    assert same([extractor.extract([picture])[0] for picture in pictures], expected)


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


def classes(section: Section) -> Sequence[str]:
    """The names that a detector gives its classes; they need no weights."""
    extractor: Any = make(section)
    names: Sequence[str] = extractor._class_names(extractor._merged_configuration())
    return names


def check_catalogue(section: Section, pictures: Pictures) -> None:
    """A configuration of the model zoo needs no list of classes, and one of one's own runs no code."""
    zoo = changed(section, model="COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", classes=None)
    choose(*zoo).require()
    names = classes(zoo)
    assert len(names) == 80
    assert names[0] == "person"
    assert "80 classes, found 2" in mistake(lambda: classes(changed(zoo, classes=["a", "b"])))
    assert "no such file" in mistake(lambda: choose(*changed(zoo, model="COCO-Detection/none.yaml")).require())
    with tempfile.TemporaryDirectory() as place:
        file, trace = Path(place) / "own.yaml", Path(place) / "trace"
        file.write_text(f"MODEL: !!python/object/apply:os.mkdir ['{trace}']\n")
        assert "no plain YAML" in mistake(lambda: ready(changed(section, model=str(file))))
        assert not trace.exists()


def check_zoo_pickle(section: Section, pictures: Pictures) -> None:
    """Weights as the model zoo has them, a pickle of arrays, give the same tags once they are converted."""
    import pickle

    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "model_final.pkl"
        arrays = load_file(options_of(section)["weights"])
        file.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=2))
        assert f"convert {file}" in mistake(lambda: choose(*changed(section, weights=str(file))).require())
        [converted] = convert(file)
        found = ready(changed(section, weights=str(converted))).extract(pictures[:4])
    assert found == ready(section).extract(pictures[:4])


def check_against_easyocr(section: Section, pictures: Pictures) -> None:
    """The lines of EasyOCR's own Reader, one picture and one line at a time."""
    assert lines_as_easyocr_reads_them(section, pictures) > 16


def check_arabic(section: Section, pictures: Pictures) -> None:
    """Likewise by a recogniser of the first generation, from right to left."""
    with tempfile.TemporaryDirectory() as place:
        options = models.write_easyocr(Path(place) / "ar", pictures, "ar")
        assert lines_as_easyocr_reads_them(changed(section, **options), pictures[:2]) > 1


def lines_as_easyocr_reads_them(section: Section, pictures: Pictures) -> int:
    import easyocr
    from easyocr.detection import get_textbox

    extractor: Any = ready(section)
    with tempfile.TemporaryDirectory() as place:
        reader = easyocr.Reader(
            options_of(section)["languages"],
            gpu=False,
            model_storage_directory=place,
            user_network_directory=place,
            detector=False,
            recognizer=False,
            verbose=False,
        )
    reader.detector, reader.get_textbox = extractor._detector, get_textbox
    reader.recognizer, reader.converter, _ = extractor._reader
    greys = [picture.convert("L").convert("RGB") for picture in pictures]  # it takes an array's colours for BGR
    expected = [
        [
            TextLine(text.strip(), float(score), tuple((float(x), float(y)) for x, y in polygon))
            for polygon, text, score in reader.readtext(np.asarray(grey), canvas_size=96, min_size=8)
            if text.strip()
        ]
        for grey in greys
    ]
    assert same(extractor.extract(greys), expected)
    return sum(map(len, expected))


def check_languages(section: Section, pictures: Pictures) -> None:
    """Each language is read by the model that EasyOCR would take for it."""
    import easyocr
    from easyocr import config

    from pipeline.extractors.easyocr import RECOGNISERS, recogniser

    with tempfile.TemporaryDirectory() as place:
        there = [
            language
            for language in config.all_lang_list  # it lists some that it has no characters for
            if (Path(config.BASE_PATH) / "character" / f"{language}_char.txt").is_file()
        ]
        for language in there:
            reader = easyocr.Reader(
                [language],
                gpu=False,
                model_storage_directory=place,
                user_network_directory=place,
                detector=False,
                recognizer=False,
                verbose=False,
            )
            one = recogniser([language])
            known = config.recognition_models[one.generation][one.name]
            assert (known["characters"], known["filename"]) == (reader.character, one.file), language
            assert known["model_script"] == reader.model_lang, language
    assert {"en"}.union(*(one.languages for one in RECOGNISERS)) == set(there)
    assert recogniser(["ch_sim", "en"]).name == "zh_sim_g2"
    assert recogniser(["de", "en"]).name == "latin_g2"
    for languages, reason in ((["ch_sim", "fr"], "no model of EasyOCR reads all"), (["xx"], "does not know xx")):
        assert reason in mistake(lambda: choose(*changed(section, languages=languages)))  # noqa: B023


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
