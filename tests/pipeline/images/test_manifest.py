"""The manifest of pictures as they come."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import ImageRow
from pipeline.core.store import Store
from pipeline.images import pictures
from pipeline.images.manifest import manifest
from pipeline.images.pictures import read_bytes
from pipeline.settings.params import ImagesParams
from tests.conftest import ROOT
from tests.pipeline.images.made import LIMITS, encoded, two_halves


def rows(folder: Path, *names: str, store: Store | None = None, limits: ImagesParams = LIMITS) -> dict[str, ImageRow]:
    return {row.image: row for row in manifest(names, folder, limits, store)}


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "images", tmp_path / "secret"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for place in (folder, folder / "sub", outside):
        (place / "a.png").write_bytes(encoded(two_halves(), "PNG"))
    (folder / "in.png").symlink_to(folder / "sub" / "a.png")
    (folder / "out.png").symlink_to(outside / "a.png")
    (folder / "door").symlink_to(outside)
    (folder / "beside").symlink_to(tmp_path / "images_not")
    names = [
        "a.png",
        "sub/a.png",
        "in.png",
        "out.png",
        "door/a.png",
        "../secret/a.png",
        "sub/../../secret/a.png",
        str(outside / "a.png"),
        "..",
        ".",
        "",
        "a\0.png",
        "..\\secret\\a.png",
        "C:/a.png",
        "./a.png",
        "sub//a.png",
    ]
    found = rows(folder, *names)
    inside = {"a.png", "sub/a.png", "in.png"}
    assert {name for name, row in found.items() if row.status == "ok"} == inside
    assert {row.status for name, row in found.items() if name not in inside} == {"unsafe_name"}
    assert all(row.sha256 is None for row in found.values() if row.status != "ok")


def test_manifest_rows_are_sorted_unique_and_true(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(encoded(two_halves(40, 20), "JPEG", exif=exif))
    (tmp_path / "png.jpg").write_bytes(encoded(two_halves(), "PNG"))
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(encoded(two_halves(200, 200), "JPEG")[:-200])
    (tmp_path / "big.jpg").write_bytes(b"\0" * 2000)
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    names = [
        "turned.jpg",
        "png.jpg",
        "empty.jpg",
        "text.jpg",
        "cut.jpg",
        "big.jpg",
        "folder.jpg",
        "pipe.jpg",
        "nowhere.jpg",
        "x" * 300,
        "png.jpg",
    ]
    found = list(manifest(names, tmp_path, ImagesParams(max_bytes=1999)))
    assert [row.image for row in found] == sorted(set(names))
    by_name = {row.image: row for row in found}
    turned = by_name["turned.jpg"]
    assert (turned.width, turned.height, turned.format, turned.status, turned.error) == (20, 40, "JPEG", "ok", None)
    assert by_name["png.jpg"].format == "PNG"
    assert {name: row.status for name, row in by_name.items() if row.status != "ok"} == {
        "empty.jpg": "unreadable",
        "text.jpg": "unreadable",
        "cut.jpg": "truncated",
        "big.jpg": "too_large",
        "folder.jpg": "unreadable",
        "pipe.jpg": "unreadable",
        "nowhere.jpg": "missing",
        "x" * 300: "missing",
    }
    assert all(row.error for row in found if row.status != "ok")
    assert by_name["cut.jpg"].sha256
    assert by_name["cut.jpg"].width is None


def test_manifest_without_a_folder(tmp_path: Path) -> None:
    assert [row.status for row in manifest(["b.jpg", "a.jpg"], None, LIMITS)] == ["missing", "missing"]
    with pytest.raises(UserError, match="no such folder"):
        manifest(["a.jpg"], tmp_path / "none", LIMITS)
    with pytest.raises(UserError, match="surrogate"):
        manifest(["\ud800.jpg"], tmp_path, LIMITS)


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    real = read_bytes

    def counting(path: Path, limits: ImagesParams) -> bytes:
        read.append(path)
        return real(path, limits)

    monkeypatch.setattr(pictures, "read_bytes", counting)
    return read


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.png").write_bytes(encoded(two_halves(20 + number, 20), "PNG"))
        os.utime(folder / f"{number:02}.png", (1e9, 1e9))
    (folder / "30.png").write_text("no picture")
    os.utime(folder / "30.png", (1e9, 1e9))
    names = [f"{number:02}.png" for number in range(31)]
    read = count_reads(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        first = rows(folder, *names, store=store)
        assert len(read) == 31
        assert rows(folder, *names, store=store) == first
        assert len(read) == 31
        (folder / "07.png").write_bytes(encoded(two_halves(99, 20), "PNG"))
        os.utime(folder / "07.png", (1e9, 1e9))  # same time, and other bytes: the change of the inode tells
        (folder / "08.png").unlink()
        (folder / "08.png").write_bytes((folder / "09.png").read_bytes())
        second = rows(folder, *names, store=store)
        assert sorted(path.name for path in read[31:]) == ["07.png", "08.png"]
        assert second["07.png"].width == 99
        assert second["08.png"].sha256 == second["09.png"].sha256
        assert rows(folder, *names, store=store, limits=ImagesParams(max_pixels=500))["20.png"].status == "too_large"


def test_a_file_just_written_is_not_trusted_to_its_time_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new.png").write_bytes(encoded(two_halves(), "PNG"))
    read = count_reads(monkeypatch)
    with Store.open(tmp_path / "store") as store:
        rows(tmp_path, "new.png", store=store)
        rows(tmp_path, "new.png", store=store)
    assert len(read) == 2


def test_there_is_a_decoder_for_each_core_that_the_process_may_use(tmp_path: Path) -> None:
    """Bound to one core, the stage starts one child, however many cores the machine has."""
    for number in range(64):
        (tmp_path / f"{number:02}.png").write_bytes(encoded(two_halves(20 + number, 20), "PNG"))
    code = """
import os, sys
from pathlib import Path
from pipeline.images.decoding import Decoders
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
started = []
class Counted(Decoders):
    def _start(self):
        started.append(self)
        return super()._start()
sys.modules["pipeline.images.manifest"].Decoders = Counted
folder = Path(sys.argv[1])
assert {row.status for row in manifest(sorted(os.listdir(folder)), folder, ImagesParams())} == {"ok"}
print(len(started))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"]
