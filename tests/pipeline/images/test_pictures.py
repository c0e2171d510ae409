"""Where pictures lie: what is read of a folder, and what is refused."""

import hashlib
import os
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from pipeline.images.decoding import PictureError
from pipeline.images.pictures import Folder, load, read_bytes
from pipeline.settings.params import ImagesParams

LIMITS = ImagesParams()
Form = Literal["NFC", "NFD"]


def test_a_folder_gives_its_pictures_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "images" / "sub" / "a.png").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret")
    (tmp_path / "door").symlink_to(tmp_path / "images")
    folder = Folder(tmp_path / "door", ImagesParams(max_bytes=6))
    assert folder.read("sub/a.png") == b"inside"
    for name, status in {
        "../secret": "unsafe_name",
        str(tmp_path / "secret"): "unsafe_name",
        "link.png": "unsafe_name",
        "none.png": "missing",
        "sub": "unreadable",
    }.items():
        with pytest.raises(PictureError) as caught:
            folder.read(name)
        assert caught.value.status == status, name
    (tmp_path / "images" / "big.png").write_bytes(b"7 bytes")
    with pytest.raises(PictureError, match="max_bytes is 6"):
        folder.read("big.png")


@pytest.mark.parametrize(("named", "lies"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_picture_whose_name_differs_in_unicode_form_alone_is_found(tmp_path: Path, named: Form, lies: Form) -> None:
    """As macOS names files, or a data set its ids."""
    name, file = (unicodedata.normalize(form, "Köln/café.png") for form in (named, lies))
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_bytes(b"inside")
    assert Folder(tmp_path, LIMITS).read(name) == b"inside"
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_bytes(b"its own")
    assert Folder(tmp_path, LIMITS).read(name) == b"its own"


def test_a_link_under_another_form_of_a_name_is_held_to_the_rules(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / unicodedata.normalize("NFD", "é.png")).symlink_to(tmp_path / "secret")
    with pytest.raises(PictureError) as caught:
        Folder(tmp_path / "images", LIMITS).read("é.png")
    assert caught.value.status == "unsafe_name"


def test_what_is_no_file_leaves_nothing_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "big.jpg").write_bytes(b"\0" * 9)
    before = sorted(os.listdir("/proc/self/fd"))
    for name in ("pipe.jpg", "folder.jpg", "big.jpg", "none.jpg"):
        with pytest.raises(PictureError):
            read_bytes(tmp_path / name, ImagesParams(max_bytes=8))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_load_refuses_a_file_that_has_changed(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    sha256 = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    folder = Folder(tmp_path, LIMITS)
    assert load(folder, "a.png", sha256, LIMITS).size == (40, 20)
    Image.new("RGB", (41, 20)).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match="changed"):
        load(folder, "a.png", sha256, LIMITS)
