"""Finding the extractor that params name, and checking its options."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import ImageRow
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.extractors.attributes import AttributesOptions
from pipeline.extractors.base import LoadingExtractor, LookupExtractor, fingerprint_of, source_of
from pipeline.extractors.registry import REGISTRY, choose
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams, load
from tests.conftest import ROOT
from tests.pipeline.extractors.cases import ready


def test_params_as_shipped_are_valid() -> None:
    params = load(ROOT / "params.yaml")
    for kind, extractors in REGISTRY.items():
        section = params.extraction(kind)
        choose(kind, section)
        for name in extractors:
            options = type(choose(kind, {**section, "extractor": name}).create()).Options  # type: ignore[union-attr]
            assert set(section[name]) == set(options.model_fields), "every option has its line in params.yaml"
    assert set(params.extraction("objects")["attributes"]) == set(AttributesOptions.model_fields)


@pytest.mark.parametrize(
    ("kind", "section", "message"),
    [
        (
            "captions",
            {"extractor": "blip", "blip": {"model": "x", "num_bean": 3}},
            r"captions\.blip\.num_bean: unknown key; expected one of model, revision, prompt, num_captions, decoding",
        ),
        (
            "captions",
            {"extractor": "blip", "blip": {"model": "x", "num_beams": 0}},
            r"captions\.blip\.num_beams: found 0",
        ),
        ("captions", {"extractor": "blip", "blip": {}}, r"captions\.blip\.model: missing"),
        ("captions", {"extractor": "blip", "blip": {"model": "x", "num_captions": 5}}, r"num_beams: 3 beams cannot"),
        ("captions", {"extractor": "blip", "blip": ["x"]}, r"captions\.blip: expected the extractor's options"),
        (
            "captions",
            {"extractor": "blib", "blip": {"model": "x"}},
            r"captions\.extractor: blib: unknown extractor; expected blip, lavis, florence2, .*, or package\.mod",
        ),
        ("captions", {"extractor": "blip", "blip": {"model": "x"}, "lavi": {}}, r"captions\.lavi: unknown key"),
        (
            "objects",
            {"extractor": "transformers", "transformers": {"model": "x", "threshold": 1.5}},
            r"threshold: found 1\.5",
        ),
        ("objects", {"extractor": "transformers", "transformers": {"model": "x", "dtype": "int8"}}, "dtype"),
        ("ocr", {"extractor": "rapidocr", "rapidocr": {"limit_side_len": "big"}}, r"ocr\.rapidocr\.limit_side_len"),
        ("ocr", {"extractor": "nowhere.at_all:Reader"}, "no module nowhere"),
        ("ocr", {"extractor": "json:Reader"}, "json has no class Reader"),
        ("ocr", {"extractor": "json:"}, "unknown extractor"),
    ],
)
def test_a_mistake_in_params_is_named(kind: str, section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(kind, section)


def test_a_kind_is_switched_off_by_null_and_its_options_are_checked_still() -> None:
    section = {"extractor": None, "blip": {"model": "checkpoints/not/here"}}
    choice = choose("captions", section)
    assert choice.off
    assert (choice.name, choice.interpreter, choice.changed()) == (None, None, [])
    choice.require()
    with pytest.raises(ValueError, match="switched off"):
        choice.create()
    with pytest.raises(UserError, match=r"captions\.blip\.num_bean: unknown key"):
        choose("captions", {**section, "blip": {"model": "x", "num_bean": 3}})


def test_a_choice_is_made_once() -> None:
    """What it says later is of the section as it was: nothing is looked up again."""
    section: dict[str, Any] = {"extractor": "lavis", "lavis": {"weights": "w.pth", "num_beams": 5}}
    choice = choose("captions", section)
    section["lavis"]["num_beams"] = "many"
    section["extractor"] = "nowhere:Class"
    assert choice.interpreter == "lavis"
    assert [change.key for change in choice.changed()] == ["captions.lavis.weights", "captions.lavis.num_beams"]
    assert not choice.off


def test_every_extractor_with_a_model_loads_it_when_told() -> None:
    """None loads when it is made; the protocol has it loaded once, by one thread."""
    without = {"precomputed", "tesseract"}
    params = load(ROOT / "params.yaml")
    for kind, extractors in REGISTRY.items():
        for name in set(extractors) - without:
            section = {**getattr(params, kind).model_dump(), "extractor": name}
            assert isinstance(choose(kind, section).create(), LoadingExtractor), name


def test_every_mistake_is_named_with_its_line() -> None:
    section = {"extractor": "blip", "blip": {"model": "x", "num_bean": 3, "num_beams": 0}}
    with pytest.raises(UserError) as caught:
        choose("captions", section, "params.yaml", {"captions.blip.num_bean": 31, "captions.blip.num_beams": 32})
    lines = sorted(str(caught.value).splitlines())
    assert [line.split(" ")[0] for line in lines] == ["params.yaml:31:", "params.yaml:32:"]


OWN = '''
from pydantic import BaseModel
from pipeline.core.records import Caption

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
        choose("captions", section)
        return str(ready(("captions", section)).extract([picture])[0][0].text)

    sizes, typed = f"{own_module}:Sizes", f"{own_module}:Typed"
    assert caption({"extractor": sizes}) == "7 pixels wide"
    assert caption({"extractor": sizes, sizes: {"unit": "dots"}, "blip": {"model": "x"}}) == "7 dots wide"
    assert caption({"extractor": typed}) == "14 on cpu"
    assert caption({"extractor": typed, typed: {"factor": 3}}) == "21 on cpu"
    assert isinstance(choose("captions", {"extractor": f"{own_module}:Published"}).create(), LookupExtractor)
    picture.save(tmp_path / "a.png")
    rows: list[ImageRow] = list(manifest(["a.png"], tmp_path, ImagesParams()))
    with Store.open(tmp_path / "store") as store:
        extract(
            "captions", choose("captions", {"extractor": sizes}).create(), rows, tmp_path, tmp_path / "out.jsonl", store
        )
    assert "7 pixels wide" in (tmp_path / "out.jsonl").read_text()


def test_mistakes_in_an_extractor_of_ones_own_are_named(own_module: str) -> None:
    typed, sizes = f"{own_module}:Typed", f"{own_module}:Sizes"
    with pytest.raises(UserError, match="factr: unknown key; expected one of factor"):
        choose("captions", {"extractor": typed, typed: {"factr": 3}})
    with pytest.raises(UserError, match="unexpected keyword argument 'colour'"):
        choose("captions", {"extractor": sizes, sizes: {"colour": 1}}).create()
    with pytest.raises(UserError, match="no extractor; expected a class with fingerprint"):
        choose("captions", {"extractor": f"{own_module}:NoExtractor"}).create()
    with pytest.raises(UserError, match="has no class Size"):
        choose("captions", {"extractor": f"{own_module}:Size"})
    with pytest.raises(UserError, match="needs the module a_package_that_is_not_there"):
        choose("captions", {"extractor": "my_extractors.broken:X"})


def test_options_of_ones_own_stay_in_place_while_another_extractor_is_named(own_module: str) -> None:
    sizes = f"{own_module}:Sizes"
    kept = {sizes: {"unit": "dots"}, "blip": {"model": "x"}, "gone.away:Reader": {"any": 1}}
    assert choose("captions", {"extractor": "blip", **kept}).name == "blip"
    assert choose("captions", {"extractor": None, **kept}).off
    with pytest.raises(UserError, match="my captions: unknown key"):
        choose("captions", {"extractor": "blip", **kept, "my captions": {}})


def test_an_edited_file_of_ones_own_is_seen_unless_the_class_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, rest in (("edited_one", ""), ("edited_other", "    SOURCE_MATTERS = False\n")):
        file = tmp_path / f"{name}.py"
        text = f"class Reader:\n{rest}    def fingerprint(self): return {{'version': 1}}\n"
        text += "    def extract(self, images): ...\n"
        file.write_text(text)
        extractor: Any = choose("captions", {"extractor": f"{name}:Reader"}).create()
        before = fingerprint_of(extractor)
        assert before["version"] == 1
        file.write_text(text + "\n# and more\n")
        assert (fingerprint_of(extractor) == before) == bool(rest)
    shipped = choose("captions", {"extractor": "blip", "blip": {"model": "checkpoints/sample/blip"}})
    assert source_of(shipped.cls) is None
