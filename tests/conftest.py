"""What all tests share: a store of their own, no network, and the way to the real data."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DVC_NO_ANALYTICS"] = "1"
# A shell without job control has what it starts in the background ignore SIGINT, and all that is started by that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(autouse=True, scope="session")
def _own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never touch the user's store, and never profit from it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTREAD_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real tweets and pictures; tests that need it skip where it is not."""
    folder = Path(os.environ.get("SIGHTREAD_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set SIGHTREAD_REAL_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Headless Chromium, through playwright's driver."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium: install Debian's package (apt-get install chromium), or name it in CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is in requirements-dev.lock")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()
