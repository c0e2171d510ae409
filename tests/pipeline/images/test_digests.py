"""A listing of digests: what pictures are, wherever they lie; made once, and read again where something changed."""

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline.core.errors import UserError
from pipeline.core.records import ImageRow
from pipeline.core.remote import Remote
from pipeline.core.store import Store
from pipeline.images.decoding import PictureError
from pipeline.images.digests import Digests, Listed, held, write
from pipeline.images.manifest import manifest
from pipeline.images.pictures import Folder, StampedPictures
from pipeline.images.remote import Objects
from pipeline.settings.params import DataParams
from tests.pipeline.images.made import LIMITS, encoded, two_halves

NAMES = [f"{number:02}.png" for number in range(30)]


class Counted:
    """Another place, whose reads are counted."""

    def __init__(self, place: StampedPictures) -> None:
        self.place, self.seen = place, list[str]()
        self.stamp = place.stamp

    def read(self, name: str) -> bytes:
        self.seen.append(name)
        return self.place.read(name)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number, name in enumerate(NAMES):
        put(tmp_path / "pictures" / name, 20 + number)
    return tmp_path / "pictures"


def put(path: Path, width: int) -> None:
    path.write_bytes(encoded(two_halves(width, 20), "PNG"))
    os.utime(path, (1e9, 1e9))


def rows(place: Path | StampedPictures | None, *names: str, store: Store | None = None) -> dict[str, ImageRow]:
    return {row.image: row for row in manifest(names, place, LIMITS, store)}


def digests(path: Path, text: str) -> Digests:
    path.write_text(text, encoding="utf-8")
    return Digests(path)


def said(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    return str(caught.value)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_listing_is_what_sha256sum_writes_and_reads(folder: Path, tmp_path: Path, store: Store) -> None:
    (folder / "sub").mkdir()
    put(folder / "sub/two words é.png", 70)
    put(folder / "line\nbreak.png", 71)
    names = [*NAMES, "sub/two words é.png", "line\nbreak.png", "gone.png", "../secret"]
    made = tmp_path / "made.sha256"
    left_out = write(names, Folder(folder, LIMITS), made, store)
    assert {name: error.status for name, error in left_out.items()} == {
        "gone.png": "missing",
        "../secret": "unsafe_name",
    }
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", str(made)], cwd=folder, check=True)
    found = subprocess.run(
        ["sh", "-c", "find . -type f -exec sha256sum {} +"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    theirs, ours = digests(tmp_path / "theirs.sha256", found), Digests(made)
    for name in names[:-2]:
        assert theirs.get(name) == ours.get(name) == sha256(folder / name)
    assert (len(theirs), len(ours), ours.get("gone.png")) == (32, 32, None)


def test_digests_and_names_of_any_bytes_are_told_apart(tmp_path: Path) -> None:
    """Those that end in zeros, too, which an array of bytes leaves out; and a name in the other Unicode form."""
    lines = {f"{number}.png": f"{number:04x}".ljust(64, "0") for number in range(2000)}
    found = digests(tmp_path / "list", "".join(f"{value} *./{name}\r\n" for name, value in lines.items()))
    assert {name: found.get(name) for name in lines} == lines
    assert found.get("2000.png") is None
    assert digests(tmp_path / "list", f"{'a' * 64}  caf\u00e9.png").get("cafe\u0301.png") == "a" * 64
    assert digests(tmp_path / "list", "").get("a.png") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{'a' * 64}  a.png\n{'a' * 63}  b.png\n", "list:2: found 'aaaaaaaa"),
        (f"{'a' * 64}\ta.png\n", "list:1: found "),
        (f"{'a' * 40}  a.png\n", "expected a line as sha256sum writes it"),
        (f"SHA256 (a.png) = {'a' * 64}\n", "list:1: found 'SHA256 (a.png)"),
        (f"{'a' * 64}  a\n{'b' * 64}  b\n{'c' * 64}  ./a\n", "list:3: a has another SHA-256 in line 1"),
    ],
)
def test_what_is_no_listing_is_an_error_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    assert message in said(lambda: digests(tmp_path / "list", text))


def test_the_same_line_twice_is_one(tmp_path: Path) -> None:
    assert digests(tmp_path / "list", f"{'a' * 64}  a\n" * 2).get("a") == "a" * 64


def test_a_picture_is_what_its_line_says_or_a_row_that_says_why(folder: Path, tmp_path: Path, store: Store) -> None:
    write(NAMES[:-1], Folder(folder, LIMITS), tmp_path / "list", store)
    put(folder / "03.png", 99)
    (folder / "04.png").unlink()
    listed = Listed(Folder(folder, LIMITS), Digests(tmp_path / "list"))
    found = rows(listed, *NAMES, "../secret", store=store)
    assert {name: (row.status, row.sha256) for name, row in found.items() if row.status != "ok"} == {
        "03.png": ("unreadable", None),
        "04.png": ("missing", None),
        "29.png": ("missing", None),
        "../secret": ("missing", None),
    }
    assert str(found["03.png"].error).startswith("not the picture that list lists: its SHA-256 is ")
    assert found["29.png"].error == "not listed in list"
    assert {name: row for name, row in found.items() if row.status == "ok"} == {
        name: row for name, row in rows(folder, *NAMES[:-1]).items() if name not in ("03.png", "04.png")
    }


def test_a_changed_listing_reads_what_changed_alone(folder: Path, tmp_path: Path, store: Store) -> None:
    path = tmp_path / "list"

    def read(place: Path) -> tuple[dict[str, ImageRow], list[str]]:
        counted = Counted(Folder(place, LIMITS))
        found = rows(Listed(counted, Digests(path)), *NAMES, store=store)
        return found, sorted(counted.seen)

    write(NAMES, Folder(folder, LIMITS), path, store)
    first, seen = read(folder)
    assert seen == NAMES
    assert read(folder) == (first, [])
    put(folder / "07.png", 99)
    assert read(folder) == (first, []), "a picture is what the listing says it was"
    write(NAMES, Folder(folder, LIMITS), path, store)
    second, seen = read(folder)
    assert (seen, second["07.png"].width) == (["07.png"], 99)
    put(folder / "07.png", 27)
    write(NAMES, Folder(folder, LIMITS), path, store)
    assert read(folder) == (first, []), "as it was before"
    folder.rename(tmp_path / "moved")
    assert read(tmp_path / "moved") == (first, []), "wherever pictures lie"


def test_a_row_of_the_store_is_no_way_round_a_name(folder: Path, tmp_path: Path, store: Store) -> None:
    write(NAMES, Folder(folder, LIMITS), tmp_path / "list", store)
    with (tmp_path / "list").open("a", encoding="utf-8") as file:
        file.write(f"{sha256(folder / '00.png')}  ../pictures/00.png\n")
    listed = Listed(Folder(folder, LIMITS), Digests(tmp_path / "list"))
    rows(listed, "00.png", store=store)
    assert rows(listed, "../pictures/00.png", store=store)["../pictures/00.png"].status == "unsafe_name"


def test_listing_again_reads_what_changed_or_what_a_killed_run_had_not(
    folder: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Counted):
        def read(self, name: str) -> bytes:
            if name == "20.png":
                raise KeyboardInterrupt
            return super().read(name)

    monkeypatch.setattr("pipeline.images.digests._WINDOW", 10)
    path = tmp_path / "list"
    with pytest.raises(KeyboardInterrupt):
        write(NAMES, Cut(Folder(folder, LIMITS)), path, store)
    assert not path.exists()
    again = Counted(Folder(folder, LIMITS))
    assert write(NAMES, again, path, store) == {}
    assert sorted(again.seen) == NAMES[20:]
    put(folder / "07.png", 99)
    again = Counted(Folder(folder, LIMITS))
    write(NAMES, again, path, store)
    assert again.seen == ["07.png"]
    assert Digests(path).get("07.png") == sha256(folder / "07.png")


def test_a_bucket_is_listed_by_its_tags_and_read_where_they_changed(
    folder: Path, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = Remote("memory://listed/pictures")
    for name in NAMES:
        remote.write(name, (folder / name).read_bytes())
    read: list[str] = []
    real = Objects.read

    def counting(self: Objects, name: str) -> bytes:
        read.append(name)
        return real(self, name)

    monkeypatch.setattr(Objects, "read", counting)
    path = tmp_path / "list"
    try:
        write(NAMES, Objects(remote.url, LIMITS), path, store)
        first = path.read_bytes()
        assert sorted(read) == NAMES
        remote.write("05.png", b"other")
        write(NAMES, Objects(remote.url, LIMITS), path, store)
        assert read[30:] == ["05.png"]
        write(NAMES, Folder(folder, LIMITS), path, store)
        assert path.read_bytes() == first
    finally:
        fsspec.filesystem("memory").rm("/listed", recursive=True)


@pytest.mark.parametrize("images", ["pictures", "tars/*.tar", "file://{}/pictures"])
def test_pictures_of_any_place_outside_the_data_set_are_held_to_its_listing(
    folder: Path, tmp_path: Path, store: Store, images: str
) -> None:
    (tmp_path / "tars").mkdir()
    for number in range(3):
        with tarfile.open(tmp_path / f"tars/{number}.tar", "w") as tar:
            for name in NAMES[number::3]:
                tar.add(folder / name, name)
    (tmp_path / "set").mkdir()
    where = images.format(tmp_path) if "://" in images else f"../{images}"
    data = DataParams(root=tmp_path / "set", images=where, listing="list")
    assert "list: no such file" in said(lambda: held(data, LIMITS, store))
    write(NAMES, Folder(folder, LIMITS), tmp_path / "set/list", store)
    assert rows(held(data, LIMITS, store), *NAMES) == rows(folder, *NAMES)
    digest = sha256(folder / "00.png")
    text = (tmp_path / "set/list").read_text(encoding="utf-8").replace(digest, "0" * 64)
    (tmp_path / "set/list").write_text(text, encoding="utf-8")
    place = held(data, LIMITS, store)
    assert place is not None
    assert not isinstance(place, Path)
    with pytest.raises(PictureError, match="not the picture that list lists"):
        place.read("00.png")


def test_a_folder_that_is_not_there_is_an_error_and_no_pictures_that_are_missing(tmp_path: Path, store: Store) -> None:
    (tmp_path / "list").write_text(f"{'a' * 64}  a.png\n", encoding="utf-8")
    data = DataParams(root=tmp_path, images="/nowhere/pictures", listing="list")
    assert "/nowhere/pictures: no such folder of pictures" in said(lambda: held(data, LIMITS, store))


def test_nothing_is_written_where_no_picture_can_be_read(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "list"
    message = said(lambda: write(NAMES, Folder(tmp_path, LIMITS), path, store))
    assert "not written, since not one picture can be read (30 missing, such as 00.png: No such file" in message
    assert not path.exists()


@pytest.mark.parametrize("text", ["IMGID:1\nRome\tB-LOC\n", '{"id": 1, "text": "Rome"}\n', "\n\nRome\n"])
def test_a_file_that_is_no_listing_is_not_overwritten(folder: Path, tmp_path: Path, store: Store, text: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(text, encoding="utf-8")
    message = said(lambda: write(NAMES, Folder(folder, LIMITS), path, store))
    assert message.startswith(f"{path}:")
    assert "it is not overwritten: see what data.listing names" in message
    assert path.read_text(encoding="utf-8") == text
    path.write_text("", encoding="utf-8")
    assert write(NAMES, Folder(folder, LIMITS), path, store) == {}
