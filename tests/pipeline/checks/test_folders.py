"""Files of DVC's own and links in the data set, and checkpoints behind links, are found before anything runs."""

import os
import sys
from pathlib import Path

import pytest

from pipeline.checks import folders
from pipeline.checks.check import check
from pipeline.core.errors import UserError
from pipeline.settings import params
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data set is a copy of the sample's texts, beside the sample's checkpoints."""
    (tmp_path / "p/set/images/sub").mkdir(parents=True)
    (tmp_path / "p/checkpoints").mkdir()
    (tmp_path / "p/checkpoints/sample").symlink_to(ROOT / "checkpoints/sample")
    for split in ("train", "valid", "test"):
        (tmp_path / f"p/set/{split}.txt").write_text("IMGID:1\nParis\tB-LOC\n")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("root: sample/data", "root: set")
    (tmp_path / "p/params.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "p")
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "store"))
    return tmp_path / "p"


def found() -> list[folders.Finding]:
    return [finding for finding in folders.findings(params.load("params.yaml")) if finding.key == "data.root"]


def test_a_clean_data_set(project: Path) -> None:
    assert found() == []


@pytest.mark.parametrize("place", ["set", "set/images/sub", "set/.hidden"])
@pytest.mark.parametrize(("name", "reason"), [(".dvcignore", "DVC reads no folder"), ("dvc.yaml", "`dvc repro` runs")])
def test_files_of_dvc(project: Path, place: str, name: str, reason: str) -> None:
    (project / place).mkdir(exist_ok=True)
    (project / place / name).touch()
    with pytest.raises(UserError) as caught:
        check()
    lines = [line for line in str(caught.value).splitlines() if f" data.root: {place}/{name}: {reason}" in line]
    assert len(lines) == 1, caught.value
    assert lines[0].startswith("params.yaml:")


def test_what_dvc_passes_over_and_what_it_does_not_run(project: Path, tmp_path: Path) -> None:
    (project / "set/.git").mkdir()
    (project / "set/.git/dvc.yaml").touch()
    assert found() == []
    (project / "set").rename(tmp_path / "elsewhere")
    (project / "set").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/dvc.yaml").touch()
    assert found() == [], "the stages of another folder are not run, and a data set that is itself a link is read"


def test_links_to_folders_are_warned_of(project: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/dvc.yaml").touch()
    (project / "set/images/door").symlink_to(tmp_path / "far")
    (project / "set/images/file").symlink_to("../train.txt")
    [finding] = found()
    assert finding.problem.startswith("set/images/door: a link to a folder, into which DVC does not look")
    for number in range(4):
        (project / f"set/{number}").symlink_to(tmp_path / "far")
    (project / "set/.dvcignore").touch()
    with pytest.raises(UserError):
        check()
    warned = capsys.readouterr().err
    assert "warning: params.yaml:" in warned
    assert "data.root: set/0, set/1, set/2, …: 5 links to folders" in warned
    assert "train.encoder: checkpoints/sample: a link to a folder, into which DVC does not look" in warned


@pytest.mark.parametrize("linked", [False, True])
def test_what_dvc_would_wait_for_is_named(project: Path, tmp_path: Path, linked: bool) -> None:
    """A pipe has no end, and a device may have none; a link to nothing is DVC's to name."""
    place = tmp_path if linked else project / "set/images/sub"
    os.mkfifo(place / "pipe.jpg")
    if linked:
        (project / "set/images/sub/pipe.jpg").symlink_to(place / "pipe.jpg")
    (project / "set/images/nothing.jpg").symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        check()
    [line] = [line for line in str(caught.value).splitlines() if "pipe" in line]
    assert "data.root: set/images/sub/pipe.jpg: a named pipe, socket or device, which `dvc repro` opens" in line
    (project / "set/zero").symlink_to("/dev/zero")
    assert found()[0].problem.startswith("set/zero, set/images/sub/pipe.jpg: 2 named pipes, sockets or devices")


def test_a_pipe_among_checkpoints_is_named(project: Path) -> None:
    os.mkfifo(project / "checkpoints/weights")
    with pytest.raises(UserError, match=r"params\.yaml: checkpoints: checkpoints/weights: a named pipe"):
        check()


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no names that are not UTF-8")
def test_names_on_which_dvc_fails_are_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9")
    (project / f"set/images/{name}.jpg").touch()
    (project / "checkpoints" / name).mkdir()
    with pytest.raises(UserError) as caught:
        check()
    assert "data.root: set/images/caf\udce9.jpg: a name that is not UTF-8, on which `dvc repro` fails" in str(
        caught.value
    )
    assert "checkpoints: checkpoints/caf\udce9: a name that is not UTF-8" in str(caught.value)
    (project / f"set/{name}").touch()
    assert "2 names that are not UTF-8" in found()[0].problem
    moved = project.with_name(name)
    project.rename(moved)
    monkeypatch.chdir(moved)
    with pytest.raises(UserError, match=r"caf\udce9: the path of this folder is not UTF-8, and `dvc repro` fails"):
        check()


def test_the_walk_is_bounded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        (project / f"set/images/{number}/deep").mkdir(parents=True)
        (project / f"set/images/{number}/deep/dvc.yaml").touch()
    assert len(found()) == 9
    monkeypatch.setattr(folders, "MOST_FOLDERS", 5)
    assert found() == []
    monkeypatch.setattr(folders, "MOST_FOLDERS", 5_000)
    monkeypatch.setattr(folders, "MOST_NAMES", 6)
    assert found() == []


def test_a_listing_that_is_not_there_or_that_dvc_reads_the_pictures_beside(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "params.yaml").read_text(encoding="utf-8").replace("  listing:", "  listing: list")
    (project / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.listing: set/list: no such file; `python -m pipeline\.listing`"):
        check()
    warning = "data.listing: set/images: the pictures lie below data.root, so that DVC reads them all the same"
    assert warning in capsys.readouterr().err
    (project / "set/list").write_text(f"{'a' * 64}  1.jpg\n", encoding="utf-8")
    (project / "set/images").rename(project / "images")
    for place in ("../images", str(project / "images")):
        (project / "params.yaml").write_text(text.replace("  images: images", f"  images: {place}"), encoding="utf-8")
        (project / "images/1.jpg").touch()
        check()
        assert "data.listing" not in capsys.readouterr().err
