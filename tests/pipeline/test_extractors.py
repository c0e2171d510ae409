"""Finding the extractor that params name, checking its options, and what every extractor promises."""

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from pipeline.contexts import ITEMS, Caption, Item
from pipeline.errors import UserError
from pipeline.extraction import extract
from pipeline.extractors import REGISTRY, Extractor, LookupExtractor, PreparingExtractor, create, require, validate
from pipeline.images import ImageRow, list_pictures, manifest
from pipeline.params import ExecutionParams, ImagesParams, Kind, load
from pipeline.store import Store, digest

ROOT = Path(__file__).resolve().parents[2]
CPU = ExecutionParams(device="cpu")

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "dog", "cat", "ball", "on", "the", "beach",
         "in", "snow", "runs", "sits", "picture", "of")


@pytest.fixture(scope="session")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BLIP captioner of the true architecture, small and untrained."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    folder = tmp_path_factory.mktemp("checkpoints") / "blip"
    torch.manual_seed(0)
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2,
              "initializer_range": 0.5, "projection_dim": 16}
    config = BlipConfig(
        vision_config={**narrow, "image_size": 32, "patch_size": 8},
        text_config={**narrow, "encoder_hidden_size": 32, "vocab_size": len(WORDS), "max_position_embeddings": 32,
                     "bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3})
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():  # it says words, and ends, not other special tokens
        model.text_decoder.cls.predictions.bias[[0, 1, 2, 4]] = -1e4
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def yolos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLOS detector: its pictures keep their aspect ratio, so no two need to have the same shape."""
    import torch
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    folder = tmp_path_factory.mktemp("checkpoints") / "yolos"
    torch.manual_seed(0)
    config = YolosConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                         image_size=[64, 96], patch_size=16, num_detection_tokens=12, initializer_range=0.5,
                         id2label={0: "person", 1: "dog", 2: "ball"}, label2id={"person": 0, "dog": 1, "ball": 2})
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rt_detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RT-DETR detector: every picture becomes the same size."""
    import torch
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessorPil, RTDetrResNetConfig

    folder = tmp_path_factory.mktemp("checkpoints") / "rt_detr"
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1],
                                  layer_type="basic", out_features=["stage2", "stage3", "stage4"])
    config = RTDetrConfig(backbone_config=backbone, encoder_hidden_dim=32, encoder_in_channels=[16, 16, 32],
                          encoder_ffn_dim=32, encoder_attention_heads=2, d_model=32, decoder_in_channels=[32, 32, 32],
                          decoder_ffn_dim=32, num_queries=20, decoder_layers=1, decoder_attention_heads=2,
                          num_denoising=0, initializer_bias_prior_prob=0.3,
                          id2label={0: "person", 1: "dog", 2: "ball"}, label2id={"person": 0, "dog": 1, "ball": 2})
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sections(blip: Path, yolos: Path, rt_detr: Path) -> dict[str, tuple[Kind, dict[str, Any]]]:
    """One section of params for every extractor that ships, and each architecture it is tried with."""
    def detector(model: Path, threshold: float) -> dict[str, Any]:
        return {"extractor": "transformers", "transformers": {"model": str(model), "threshold": threshold}}

    return {"blip": ("captions", {"extractor": "blip", "blip": {"model": str(blip), "num_captions": 2}}),
            "yolos": ("objects", detector(yolos, 0.4)), "rt_detr": ("objects", detector(rt_detr, 0.2)),
            "rapidocr": ("ocr", {"extractor": "rapidocr", "rapidocr": {}})}


NAMES = ("blip", "yolos", "rt_detr", "rapidocr")


def written(text: str, width: int = 320, height: int = 120, size: int = 32) -> Image.Image:
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    picture = Image.new("RGB", (width, height), (240, 240, 250))
    ImageDraw.Draw(picture).multiline_text((20, 15), text, (10, 10, 60), ImageFont.truetype(str(font), size))
    return picture


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Sixteen pictures of several sizes, some with writing."""
    rng = np.random.default_rng(5)
    sizes = [(96, 64), (64, 96), (200, 100), (77, 50), (96, 64), (30, 130), (96, 64), (320, 120)]
    noise = [Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)) for width, height in sizes]
    return noise + [written(f"Number {number}\nBERLIN {number * 37}") for number in range(8)]


def make(section: tuple[Kind, Mapping[str, Any]], execution: ExecutionParams = CPU) -> Extractor:
    extractor = create(*section, execution)
    assert isinstance(extractor, Extractor)
    return extractor


def same(found: Sequence[Sequence[Item]], expected: Sequence[Sequence[Item]]) -> bool:
    """Equal but for the last digits, and for the order of what is equally good."""
    def comparable(items: Sequence[Item]) -> list[tuple[str, list[float]]]:
        rows = [item.to_row() for item in items]
        places = [np.ravel(row.get("box") or row.get("polygon") or []).tolist() for row in rows]
        return sorted((row.get("label") or row["text"], [*place, 1000 * row["score"]])
                      for row, place in zip(rows, places, strict=True))

    def alike(one: tuple[str, list[float]], other: tuple[str, list[float]]) -> bool:
        return one[0] == other[0] and bool(np.allclose(one[1], other[1], rtol=0, atol=0.2))

    return len(found) == len(expected) and all(
        len(one) == len(other) and all(map(alike, comparable(one), comparable(other)))
        for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_results_do_not_depend_on_the_batch(name: str, sections: Any, pictures: list[Image.Image]) -> None:
    extractor = make(sections[name])
    alone = [extractor.extract([picture])[0] for picture in pictures]
    kind = sections[name][0]
    assert any(alone), "nothing found, nothing compared"
    assert all(isinstance(item, ITEMS[kind]) for items in alone for item in items)
    for size in (3, 16):
        found = [items for start in range(0, 16, size) for items in extractor.extract(pictures[start:start + size])]
        assert same(found, alone), size
    order = np.random.default_rng(1).permutation(16)
    shuffled = extractor.extract([pictures[place] for place in order])
    assert same(shuffled, [alone[place] for place in order])
    assert list(extractor.extract([])) == []
    if isinstance(extractor, PreparingExtractor):
        assert same(extractor.extract_prepared([extractor.prepare(picture) for picture in pictures]), alone)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_any_size_are_read(name: str, sections: Any) -> None:
    """A pixel, a line three pixels high, a strip: each gives a list, or an error that the engine makes a row of."""
    extractor = make(sections[name])
    for size in ((1, 1), (3, 3), (50, 3), (3, 50), (1000, 2), (2000, 1500)):
        picture = Image.new("RGB", size, (200, 30, 30))
        if name == "yolos" and max(size) > 6 * min(size):  # less than one patch would be left of the shorter side
            with pytest.raises(ValueError, match="height"):
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
    outputs = []
    for batch_size in (5, 5, 16):
        output = tmp_path / f"{len(outputs)}.jsonl"
        with Store.open(tmp_path / f"store {len(outputs)}") as store:
            rows = manifest(list_pictures(folder), folder, ImagesParams())
            summary = extract(kind, make((kind, section)), rows, folder, output, store, batch_size)
        assert (summary.read, summary.failed) == (16, 0)
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_loaded_when_there_is_something_to_read(name: str, sections: Any) -> None:
    kind, section = sections[name]
    code = f"""
import sys
from pathlib import Path
from pipeline.extraction import extract
from pipeline.extractors import create, require, validate
from pipeline.store import Store
section = {section!r}
validate({kind!r}, section)
require({kind!r}, section)
extractor = create({kind!r}, section)
extract({kind!r}, extractor, [], None, Path(sys.argv[1]) / "out.jsonl", Store.open(sys.argv[1]))
heavy = {{"torch", "transformers", "onnxruntime", "cv2", "rapidocr"}} & set(sys.modules)
assert not heavy, heavy
"""
    import tempfile
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([sys.executable, "-c", code, place], cwd=ROOT, check=True)


CHANGES: dict[str, list[dict[str, Any]]] = {
    "blip": [{"num_captions": 1}, {"num_beams": 4}, {"max_new_tokens": 9}, {"prompt": "a picture of"},
             {"dtype": "bfloat16"}],
    "yolos": [{"threshold": 0.6}, {"max_objects": 3}, {"dtype": "bfloat16"}],
    "rapidocr": [{"limit_type": "min"}, {"limit_side_len": 640}, {"text_score": 0.7}, {"box_thresh": 0.6},
                 {"unclip_ratio": 2.0}, {"use_cls": True}, {"space_thresh": 0.5}],
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_fingerprint_changes_when_the_result_can_and_only_then(name: str, sections: Any, tmp_path: Path) -> None:
    kind, section = sections[name]
    key = section["extractor"]
    first = digest(make((kind, section)).fingerprint())
    assert digest(make((kind, section), ExecutionParams(device="auto", ocr_threads=1)).fingerprint()) == first
    assert isinstance(make((kind, section)).fingerprint()["version"], int)
    found = [digest(make((kind, {**section, key: {**section[key], **change}})).fingerprint())
             for change in CHANGES[name]]
    assert len({first, *found}) == 1 + len(found)
    options = set(type(create(kind, section)).Options.model_fields)  # type: ignore[union-attr]
    assert options - {"model", "revision"} == {option for change in CHANGES[name] for option in change}
    if "model" not in options:
        return
    moved = tmp_path / "moved"
    shutil.copytree(section[key]["model"], moved)
    (moved / "README.md").write_text("A card, which no model reads.")

    def after() -> str:
        return digest(make((kind, {**section, key: {**section[key], "model": str(moved)}})).fingerprint())

    assert after() == first, "the same files elsewhere are the same model"
    processor = moved / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace("0.5", "0.4") + " ")
    changed = after()
    assert changed != first
    weights = moved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert after() not in (first, changed)


def tags(folder: Path, pictures: list[Image.Image], **options: Any) -> list[list[Any]]:
    section = {"extractor": "transformers", "transformers": {"model": str(folder), **options}}
    return [list(found) for found in make(("objects", section)).extract(pictures)]


@pytest.mark.parametrize("name", ["yolos", "rt_detr"])
def test_object_tags_are_those_of_transformers(name: str, request: pytest.FixtureRequest,
                                               pictures: list[Image.Image]) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = request.getfixturevalue(name)
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    for picture, found in zip(pictures[:4], tags(folder, pictures[:4], threshold=0.2), strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"))
        expected = processor.post_process_object_detection(outputs, 0.2, [(picture.height, picture.width)])[0]
        assert len(found) == len(expected["scores"]) > 0
        best = int(expected["scores"].argmax())
        assert found[0].label == model.config.id2label[int(expected["labels"][best])]
        assert found[0].score == pytest.approx(float(expected["scores"][best]), abs=2e-4)
        box = expected["boxes"][best].clamp(min=0)
        limits = torch.tensor([picture.width, picture.height] * 2)
        assert found[0].box == pytest.approx(torch.minimum(box, limits).tolist(), abs=0.1)


def test_object_tags_are_sorted_cut_and_inside_the_picture(yolos: Path, pictures: list[Image.Image]) -> None:
    everything = tags(yolos, pictures, threshold=0.0)
    for picture, found in zip(pictures, everything, strict=True):
        assert [tag.score for tag in found] == sorted((tag.score for tag in found), reverse=True)
        for x0, y0, x1, y1 in (tag.box for tag in found):
            assert 0 <= x0 <= x1 <= picture.width
            assert 0 <= y0 <= y1 <= picture.height
    assert tags(yolos, pictures, threshold=0.0, max_objects=3) == [found[:3] for found in everything]
    assert tags(yolos, pictures, threshold=1.0) == [[]] * 16


def test_a_detector_that_gives_nan_gives_failed_rows(yolos: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    """The threshold would leave NaN out, and the picture would seem to hold nothing."""
    import torch
    from transformers import YolosForObjectDetection

    shutil.copytree(yolos, tmp_path / "model")
    model = YolosForObjectDetection.from_pretrained(yolos)
    with torch.no_grad():
        model.class_labels_classifier.layers[0].bias.fill_(float("nan"))
    model.save_pretrained(tmp_path / "model")
    pictures[0].save(tmp_path / "a.png")
    rows = list(manifest(["a.png"], tmp_path, ImagesParams()))
    extractor = make(("objects", {"extractor": "transformers", "transformers": {"model": str(tmp_path / "model")}}))
    with Store.open(tmp_path / "store") as store:
        summary = extract("objects", extractor, rows, tmp_path, tmp_path / "out.jsonl", store)
    assert (summary.read, summary.failed) == (0, 1)
    assert "NaN" in (tmp_path / "out.jsonl").read_text()


def captions(folder: Path, pictures: list[Image.Image], **options: Any) -> list[list[Caption]]:
    section = {"extractor": "blip", "blip": {"model": str(folder), **options}}
    return [list(found) for found in make(("captions", section)).extract(pictures)]  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [
    {"num_beams": 1}, {"num_beams": 3}, {"num_beams": 4, "num_captions": 3}, {"num_beams": 3, "prompt": "a picture of"},
    {"num_beams": 1, "prompt": "a picture of"},
], ids=str)
def test_a_captions_score_is_the_geometric_mean_of_its_tokens(blip: Path, options: dict[str, Any],
                                                              pictures: list[Image.Image]) -> None:
    """Against the probabilities that the model gives the caption when it is read back to it, token by token."""
    import torch
    from transformers import AutoImageProcessor, BlipForConditionalGeneration

    model = BlipForConditionalGeneration.from_pretrained(blip).eval()
    processor = AutoImageProcessor.from_pretrained(blip)
    ids = {word: place for place, word in enumerate(WORDS)}
    prompt = [ids[word] for word in options.get("prompt", "").split()]
    found = captions(blip, pictures[:4], max_new_tokens=6, **options)
    ended = 0
    for picture, given in zip(pictures[:4], found, strict=True):
        assert len(given) == options.get("num_captions", 1)
        assert [caption.score for caption in given] == sorted((c.score or 0 for c in given), reverse=True)
        for caption in given:
            tokens = [ids[word] for word in caption.text.split()]
            if len(tokens) < 6:  # ended by itself
                tokens, ended = [*tokens, ids["[SEP]"]], ended + 1
            sequence = torch.tensor([[2, *prompt, *tokens]])
            with torch.no_grad():
                states = model.vision_model(**processor(images=picture, return_tensors="pt"))[0]
                logits = model.text_decoder(input_ids=sequence, encoder_hidden_states=states).logits
            log_probabilities = logits[0, len(prompt):-1].log_softmax(-1)
            own = log_probabilities[range(len(tokens)), tokens]
            assert caption.score == pytest.approx(float(own.mean().exp()), abs=2e-4)
    assert found == captions(blip, pictures[:4], max_new_tokens=6, **options)


def test_captions_longer_than_the_model_has_room_for_are_refused(blip: Path, pictures: list[Image.Image]) -> None:
    with pytest.raises(UserError, match=r"captions\.blip\.max_new_tokens.*room for 32"):
        captions(blip, pictures[:1], max_new_tokens=40)


def test_half_precision_runs(blip: Path, yolos: Path, pictures: list[Image.Image]) -> None:
    assert all(captions(blip, pictures, dtype="bfloat16"))
    assert len(tags(yolos, pictures, dtype="bfloat16")) == 16


def test_a_missing_or_wrong_checkpoint_is_one_message(blip: Path, yolos: Path, tmp_path: Path,
                                                      pictures: list[Image.Image]) -> None:
    with pytest.raises(UserError, match="no such folder"):
        require("captions", {"extractor": "blip", "blip": {"model": "checkpoints/not/here"}})
    with pytest.raises(UserError, match="no such folder"):
        make(("captions", {"extractor": "blip", "blip": {"model": "checkpoints/not/here"}})).fingerprint()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for kind, name in (("captions", "blip"), ("objects", "transformers")):
        with pytest.raises(UserError, match="checkpoint"):
            make((kind, {"extractor": name, name: {"model": str(tmp_path)}})).extract(pictures[:1])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="checkpoint"):
        captions(yolos, pictures[:1])
    with pytest.raises(UserError, match=r"execution\.device"):
        create("captions", {"extractor": "blip", "blip": {"model": str(blip)}},
               ExecutionParams(device="cuda:7")).extract(pictures[:1])  # type: ignore[union-attr]


def test_params_as_shipped_are_valid() -> None:
    params = load(ROOT / "params.yaml")
    for kind, extractors in REGISTRY.items():
        section = getattr(params, kind).model_dump()
        validate(kind, section)
        for name in extractors:
            options = type(create(kind, {**section, "extractor": name})).Options  # type: ignore[union-attr]
            assert set(section[name]) == set(options.model_fields), "every option has its line in params.yaml"


@pytest.mark.parametrize(("kind", "section", "message"), [
    ("captions", {"extractor": "blip", "blip": {"model": "x", "num_bean": 3}},
     r"captions\.blip\.num_bean: unknown key; expected one of model, revision, prompt, num_captions, num_beams"),
    ("captions", {"extractor": "blip", "blip": {"model": "x", "num_beams": 0}}, r"captions\.blip\.num_beams: found 0"),
    ("captions", {"extractor": "blip", "blip": {}}, r"captions\.blip\.model: missing"),
    ("captions", {"extractor": "blip", "blip": {"model": "x", "num_captions": 5}}, r"num_beams: 3 beams cannot"),
    ("captions", {"extractor": "blip", "blip": ["x"]}, r"captions\.blip: expected the extractor's options"),
    ("captions", {"extractor": "blib", "blip": {"model": "x"}}, r"captions\.extractor: blib: unknown extractor; "
                                                                r"expected blip, or package\.module:Class"),
    ("captions", {"extractor": "blip", "blip": {"model": "x"}, "lavi": {}}, r"captions\.lavi: unknown key"),
    ("objects", {"extractor": "transformers", "transformers": {"model": "x", "threshold": 1.5}},
     r"threshold: found 1\.5"),
    ("objects", {"extractor": "transformers", "transformers": {"model": "x", "dtype": "int8"}}, "dtype"),
    ("ocr", {"extractor": "rapidocr", "rapidocr": {"limit_side_len": "big"}}, r"ocr\.rapidocr\.limit_side_len"),
    ("ocr", {"extractor": "nowhere.at_all:Reader"}, "no module nowhere"),
    ("ocr", {"extractor": "json:Reader"}, "json has no class Reader"),
    ("ocr", {"extractor": "json:"}, "unknown extractor"),
])
def test_a_mistake_in_params_is_named(kind: Kind, section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(kind, section)


def test_every_mistake_is_named_with_its_line() -> None:
    section = {"extractor": "blip", "blip": {"model": "x", "num_bean": 3, "num_beams": 0}}
    with pytest.raises(UserError) as caught:
        validate("captions", section, "params.yaml", {"captions.blip.num_bean": 31, "captions.blip.num_beams": 32})
    lines = sorted(str(caught.value).splitlines())
    assert [line.split(" ")[0] for line in lines] == ["params.yaml:31:", "params.yaml:32:"]


OWN = '''
from pydantic import BaseModel
from pipeline.contexts import Caption

class Sizes:
    """Captions a picture with its size."""
    def __init__(self, unit="pixels"):
        self.unit = unit
    def fingerprint(self):
        return {"extractor": "sizes", "version": 1, "unit": self.unit}
    def extract(self, images):
        return [[Caption(f"{image.width} {self.unit} wide")] for image in images]

class Typed:
    class Options(BaseModel, extra="forbid"):
        factor: int = 2
    def __init__(self, options, execution):
        self.options, self.device = options, execution.device
    def fingerprint(self):
        return {"factor": self.options.factor}
    def extract(self, images):
        return [[Caption(f"{image.width * self.options.factor} on {self.device}")] for image in images]

class Published:
    def lookup(self, image_name):
        return [Caption("published")]

class NoExtractor:
    pass
'''


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_extractors").mkdir()
    (tmp_path / "my_extractors" / "sizes.py").write_text(OWN)
    (tmp_path / "my_extractors" / "broken.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    return "my_extractors.sizes"


def test_an_extractor_of_ones_own(own_module: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (7, 5))

    def caption(section: dict[str, Any]) -> str:
        validate("captions", section)
        return str(make(("captions", section)).extract([picture])[0][0].text)  # type: ignore[union-attr]

    sizes, typed = f"{own_module}:Sizes", f"{own_module}:Typed"
    assert caption({"extractor": sizes}) == "7 pixels wide"
    assert caption({"extractor": sizes, sizes: {"unit": "dots"}, "blip": {"model": "x"}}) == "7 dots wide"
    assert caption({"extractor": typed}) == "14 on cpu"
    assert caption({"extractor": typed, typed: {"factor": 3}}) == "21 on cpu"
    assert isinstance(create("captions", {"extractor": f"{own_module}:Published"}), LookupExtractor)
    picture.save(tmp_path / "a.png")
    rows: list[ImageRow] = list(manifest(["a.png"], tmp_path, ImagesParams()))
    with Store.open(tmp_path / "store") as store:
        extract("captions", create("captions", {"extractor": sizes}), rows, tmp_path, tmp_path / "out.jsonl", store)
    assert "7 pixels wide" in (tmp_path / "out.jsonl").read_text()


def test_mistakes_in_an_extractor_of_ones_own_are_named(own_module: str) -> None:
    typed, sizes = f"{own_module}:Typed", f"{own_module}:Sizes"
    with pytest.raises(UserError, match="factr: unknown key; expected one of factor"):
        validate("captions", {"extractor": typed, typed: {"factr": 3}})
    with pytest.raises(UserError, match="unexpected keyword argument 'colour'"):
        create("captions", {"extractor": sizes, sizes: {"colour": 1}})
    with pytest.raises(UserError, match="no extractor; expected a class with fingerprint"):
        create("captions", {"extractor": f"{own_module}:NoExtractor"})
    with pytest.raises(UserError, match="has no class Size"):
        validate("captions", {"extractor": f"{own_module}:Size"})
    with pytest.raises(UserError, match="needs the module a_package_that_is_not_there"):
        validate("captions", {"extractor": "my_extractors.broken:X"})
