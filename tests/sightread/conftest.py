"""A tagger, pictures and params to read them with."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from pipeline.settings import yaml
from sightread.tagging import Sightread
from tests.conftest import ROOT
from tests.ner.conftest import tagger_folder, xlm_r_folder

__all__ = ["tagger_folder", "xlm_r_folder"]

COLOURS = {"red": (200, 0, 0), "blue": (0, 0, 200), "black": (0, 0, 0)}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """red.jpg, blue.jpg, black.jpg, and torn.jpg, which is cut off."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, colour in COLOURS.items():
        Image.new("RGB", (40, 30), colour).save(folder / f"{name}.jpg")
    (folder / "torn.jpg").write_bytes((folder / "red.jpg").read_bytes()[:300])
    return folder


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """params.yaml with extractors of one's own."""
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    values = yaml.load(ROOT / "params.yaml").values
    values["captions"]["extractor"] = "tests.sightread.extractors:Colour"
    values["objects"]["extractor"] = "tests.sightread.extractors:Box"
    values["ocr"]["extractor"] = None
    values["execution"]["device"] = "cpu"
    path.write_text(yaml.dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def loaded(tagger_folder: Path, params: Path) -> Iterator[Sightread]:
    """The tagger with what reads pictures."""
    with Sightread.load(tagger_folder, params) as tagger:
        yield tagger
