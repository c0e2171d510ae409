"""Where the store lies by default."""

import os
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.folders import default_folder
from pipeline.core.store import Store
from tests.pipeline.core.processes import python


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGHTREAD_STORE", str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine"
    assert Store.open().folder == tmp_path / "mine"
    monkeypatch.setenv("SIGHTREAD_STORE", "relative/folder")
    with pytest.raises(UserError, match="absolute"):
        default_folder()
    monkeypatch.delenv("SIGHTREAD_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_folder() == tmp_path / "cache" / "sightread"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert default_folder() == Path.home() / ".cache" / "sightread"


HOMELESS = """
import os, sys
import pipeline.core.store
from pipeline.core.errors import run_cli
os.environ.pop("HOME", None)
os.setgroups([])
os.setuid(54321)
run_cli(lambda: print(pipeline.core.store.Store.open().folder))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a home folder")
def test_a_user_without_a_home_folder_is_told_what_to_set(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for given in ("", "~/store"):
        process = python(HOMELESS, SIGHTREAD_STORE=given, XDG_CACHE_HOME="")
        _, errors = process.communicate()
        assert process.returncode == 2
        assert "SIGHTREAD_STORE" in errors
        assert "Traceback" not in errors
        assert len(errors.strip().splitlines()) == 1
