"""A light project for tests of the stage commands: the code by links, pictures and params of its own."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.settings import yaml
from tests.conftest import ROOT
from tests.project import Project

COUNT = 48
BATCH = 4


def light_project(folder: Path, count: int = COUNT) -> Project:
    """A project without DVC whose posts name `count` small pictures, with the faulty captioners beside its stages."""
    folder.mkdir(parents=True)
    project = Project(folder, folder.parent / f"{folder.name}-store")
    for name in ("pipeline", "stages", "ner", "checkpoints"):
        os.symlink(ROOT / name, folder / name)
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    shutil.copy(Path(__file__).with_name("faulty.py"), folder / "faulty.py")
    images = folder / "set" / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for number in range(count):
        pixels = rng.integers(0, 250, (int(rng.integers(8, 40)), int(rng.integers(8, 40)), 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number:03}.png")
    text = "".join(f"IMGID:{number:03}\nhello\tO\nParis\tB-LOC\n\n" for number in range(count))
    for split in ("train", "dev", "test"):
        (folder / "set" / f"{split}.txt").write_text(text, encoding="utf-8")
    project.edit(
        data={
            "root": "set",
            "train": ["train.txt"],
            "dev": ["dev.txt"],
            "test": ["test.txt"],
            "images": "images",
            "image_name": "{id}.png",
            "types": {},
        },
        execution={"batch_size": {"captions": BATCH}},
    )
    return project


def use(project: Project, extractor: str, **options: Any) -> None:
    """Let the project caption with a class of faulty.py."""
    name = f"faulty:{extractor}"
    project.edit(captions={"extractor": name})
    path = project.folder / "params.yaml"
    params = yaml.load(path).values
    params["captions"] = {key: value for key, value in params["captions"].items() if not key.startswith("faulty:")}
    params["captions"] |= {"extractor": name, name: options}
    path.write_text(yaml.dump(params), encoding="utf-8")


def redden(project: Project, *numbers: int) -> list[str]:
    """Turn pictures red; return their names."""
    names = [f"{number:03}.png" for number in numbers]
    for place, name in enumerate(names):
        Image.new("RGB", (9, 9 + place), (255, 0, 0)).save(project.folder / "set" / "images" / name)
    return names


def prepared(folder: Path, count: int = COUNT) -> Project:
    """A light project whose images stage has run."""
    project = light_project(folder, count)
    use(project, "MeanColour")
    project.run("python", "-m", "stages.posts")
    project.run("python", "-m", "stages.images")
    return project


CAPTIONS = "data/contexts/captions.jsonl"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that tests copy, as two stages take seconds."""
    return prepared(tmp_path_factory.mktemp("template") / "project").folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    """A light project whose images stage has run, and a store with nothing in it."""
    shutil.copytree(template, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project", tmp_path / "project-store")
