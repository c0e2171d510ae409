"""Which files of a folder are pictures, and that what is left out is told."""

import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.images.listing import list_pictures, listing
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_pictures_are_told_from_what_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a.png", "sub/c.webp", "sub/d.jfif", "e.jpe", "f.heic", "g.HEIF")
    assert listing(tmp_path) == (["a.png", "b.JPG", "e.jpe", "f.heic", "g.HEIF", "sub/c.webp", "sub/d.jfif"], "")
    touch(tmp_path, ".hidden.jpg", ".git/d.jpg", ".git/e.jpg", "notes.txt", "sub/more.TXT", "list.json", "README")
    touch(tmp_path, "sub/.DS_Store")
    (tmp_path / "door").symlink_to(tmp_path / "sub")
    names, left_out = listing(tmp_path)
    assert len(names) == 7
    assert left_out.startswith("4 files that are no pictures (.txt, ")
    assert left_out.endswith("), 2 hidden files, 1 hidden folder, 1 linked folder")
    assert {".json", "no suffix"} < set(left_out.split("(")[1].split(")")[0].split(", "))


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no names that are not UTF-8")
def test_names_that_are_not_utf8_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", os.fsdecode(b"caf\xe9.png"))
    assert listing(tmp_path) == (["a.png"], "1 name that is not UTF-8")
    touch(tmp_path, os.fsdecode(b"p\xe9cs/b.png"))
    assert listing(tmp_path) == (["a.png"], "2 names that are not UTF-8")
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"no pictures; .*; found 2 names that are not UTF-8$"):
        listing(tmp_path)


def test_many_suffixes_are_cut_short(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", *(f"{number}.x{number}" for number in range(9)))
    assert listing(tmp_path).left_out.count(".x") == 5
    assert listing(tmp_path).left_out.endswith(", …)")


def test_no_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "some/notes.txt", "some/.x.jpg")
    (tmp_path / "none").mkdir()
    for name, message in (
        ("absent", "absent: no such folder"),
        ("none", r"none: no pictures; expected files named .*\.heif$"),
        ("some", r"some: no pictures; .*; found 1 file that is no picture \(\.txt\), 1 hidden file$"),
    ):
        with pytest.raises(UserError, match=message):
            list_pictures(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "shut/b.jpg")
    (tmp_path / "shut").chmod(0)
    try:
        assert listing(tmp_path) == (["a.jpg"], "1 folder that cannot be read")
    finally:
        (tmp_path / "shut").chmod(0o755)


def test_a_picture_that_cannot_be_read_has_its_row(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jfif", "JPEG")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    rows = list(manifest(list_pictures(tmp_path), tmp_path, ImagesParams()))
    assert [(row.image, row.status) for row in rows] == [("a.jfif", "ok"), ("b.heic", "unreadable")]
