"""Links among pictures: those of the tools that people keep data with are followed, any other is not."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline.images.links import dvc_cache
from pipeline.images.manifest import look, manifest, nothing_readable
from pipeline.settings.params import ImagesParams

LIMITS = ImagesParams()


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20)).save(path, "PNG")
    return path


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project with a folder of pictures, whose user has no config and no cache of the hub."""
    for variable in ("DVC_SYSTEM_CONFIG_DIR", "DVC_GLOBAL_CONFIG_DIR", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "set").mkdir()
    monkeypatch.chdir(folder)
    return folder


def status(folder: Path, target: Path, *follow: Path) -> str:
    """What becomes of a picture that is a link."""
    link = folder / "a.png"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    [row] = manifest(["a.png"], folder, LIMITS, workers=1, follow=follow)
    assert [one.status for one in look(["a.png"], folder, LIMITS, follow)] == [row.status] * (row.status != "ok")
    return row.status


def test_links_into_stores_of_files_are_followed_and_others_are_not(project: Path, tmp_path: Path) -> None:
    secret = picture(tmp_path / "elsewhere" / "a")
    assert status(project / "set", secret) == "unsafe_name"
    assert status(project / "set", secret, tmp_path / "elsewhere") == "ok"
    assert status(project / "set", secret, Path("../elsewhere")) == "ok"
    assert status(project / "set", picture(project / ".dvc/cache/files/md5/ab/cd")) == "ok"
    (project / "set" / ".git" / "annex").mkdir(parents=True)
    assert status(project / "set", picture(project / "set/.git/annex/objects/x/KEY/KEY")) == "ok"
    blob = picture(tmp_path / "HF_HUB_CACHE" / "datasets--o--n" / "blobs" / "12")
    assert status(project / "set", blob) == "ok"
    assert status(project / "set", picture(tmp_path / "HF_HUB_CACHE" / "token")) == "unsafe_name"
    snapshot = tmp_path / "hub" / "datasets--o--n" / "snapshots" / "3f" / "images"
    snapshot.mkdir(parents=True)
    assert status(snapshot, picture(tmp_path / "hub" / "datasets--o--n" / "blobs" / "12")) == "ok"


def test_an_annex_that_is_a_link_itself_opens_nothing(project: Path, tmp_path: Path) -> None:
    secret = picture(tmp_path / "elsewhere" / "a")
    (project / "set/.git/annex").mkdir(parents=True)
    (project / "set/.git/annex/objects").symlink_to(secret.parent)
    assert status(project / "set", project / "set/.git/annex/objects/a") == "unsafe_name"


def test_the_cache_is_where_dvcs_config_says(project: Path, tmp_path: Path) -> None:
    assert dvc_cache() == project / ".dvc" / "cache"
    (tmp_path / "DVC_GLOBAL_CONFIG_DIR").mkdir()
    (tmp_path / "DVC_GLOBAL_CONFIG_DIR" / "config").write_text("[cache]\n    dir = /somewhere/global\n")
    assert dvc_cache() == Path("/somewhere/global")
    (project / ".dvc" / "config").write_text(
        "[core]\n    remote = r\n['remote \"r\"']\n    url = x\n[cache]\n    dir = ../c\n"
    )
    assert dvc_cache() == project / "c"
    (project / ".dvc" / "config.local").write_text("[cache]\n    type = symlink\n    dir = /somewhere/local\n")
    assert dvc_cache() == Path("/somewhere/local")


def test_where_not_one_picture_can_be_read_the_reason_is_said(tmp_path: Path) -> None:
    rows = list(manifest(["1.jpg", "2.jpg"], tmp_path, LIMITS, workers=1))
    reason = nothing_readable(rows, tmp_path)
    assert reason is not None
    assert "of 2 pictures that posts name, not one can be read (2 missing)" in reason
    assert "data.image_name" in reason
    picture(tmp_path / "1.jpg")
    assert nothing_readable(list(manifest(["1.jpg", "2.jpg"], tmp_path, LIMITS, workers=1)), tmp_path) is None
    assert nothing_readable([], tmp_path) is None
