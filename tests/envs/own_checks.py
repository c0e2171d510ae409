"""What is checked of one library's adapter: above all, that it gives what the library itself gives."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.records import TextLine
from pipeline.core.weights import convert
from pipeline.extractors import _boxes
from pipeline.extractors.registry import choose
from tests.envs import models
from tests.envs.cases import Pictures, Section, changed, mistake, options_of
from tests.pipeline.extractors.cases import make, ready, same


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
