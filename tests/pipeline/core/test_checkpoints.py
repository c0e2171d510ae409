"""Checkpoints are found, whole, and identified by what a model reads."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core import checksums
from pipeline.core.checkpoints import digest, require, resolve
from pipeline.core.errors import UserError
from tests.conftest import ROOT
from tests.ner.interop.hub import COMMIT, Hub, _Handler


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    save_file({"weight": torch.ones(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_identity_follows_what_a_model_reads(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    before = resolve(str(folder)).identity
    (folder / "README.md").write_text("a card")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    assert resolve(str(folder)).identity == before
    (folder / "config.json").write_text('{"a": 1}')
    assert resolve(str(folder)).identity != before


def test_a_renamed_file_changes_the_digest(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model")
    before = digest(folder)
    (folder / "config.json").rename(folder / "configuration.json")
    assert digest(folder) != before


@pytest.mark.parametrize("find", [resolve, require])
def test_what_is_missing_says_how_to_get_it(tmp_path: Path, find: Callable[[str], object]) -> None:
    with pytest.raises(UserError, match="hf download no-such-owner/no-such-model"):
        find("no-such-owner/no-such-model")
    with pytest.raises(UserError, match="no such folder"):
        find(str(tmp_path / "nowhere" / "at" / "all"))


@pytest.mark.parametrize("find", [require, resolve])
def test_what_is_not_as_it_was_saved_is_refused(tmp_path: Path, find: Callable[[str], object]) -> None:
    folder = checkpoint(tmp_path / "model")
    checksums.seal(folder)
    find(str(folder))
    (folder / "config.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"not as it was saved, by checksums\.json: config\.json has changed"):
        find(str(folder))


def test_a_revision_of_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="revision: null"):
        resolve(str(checkpoint(tmp_path / "model")), "main")


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = json.dumps({"metadata": {}, "weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}})
REPOSITORY = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors.index.json": INDEX.encode(),
    SHARDS[0]: b"first",
    SHARDS[1]: b"second",
    "pytorch_model.bin": b"pickle",
    "README.md": b"card",
}
NEEDED = set(REPOSITORY) - {"pytorch_model.bin", "README.md"}
FIND = """
from pipeline.core import checkpoints
from pipeline.core.errors import UserError
for find in (checkpoints.require, checkpoints.resolve):
    try:
        print(find("me/it"))
    except UserError as error:
        print(error)
"""
CUT_SHORT = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("me/it", allow_patterns=sys.argv[1:]))
"""
BY_HAND = "from huggingface_hub.cli.hf import main; import sys; sys.argv = ['hf', 'download', 'me/it']; main()"


class Cache:
    """A cache of its own, and processes that take a test's hub for the hub."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self._environment = {**hub.environment(home), "PYTHONPATH": str(ROOT)}
        self._repository = home / "hub" / "models--me--it"
        self.snapshot = self._repository / "snapshots" / COMMIT

    def python(self, program: str, *arguments: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def leave_the_net(self) -> None:
        """What runs from now on does not even try to reach a hub, which would take it some twenty seconds."""
        self._environment["HF_HUB_OFFLINE"] = "1"

    def forget_the_list(self) -> None:
        """As an older version of the hub's library leaves it."""
        shutil.rmtree(self._repository / "trees")

    def files(self) -> set[str]:
        return {path.name for path in self.snapshot.iterdir()}


@pytest.mark.parametrize("listed", [True, False])
def test_a_download_that_was_cut_short_is_completed(tmp_path: Path, listed: bool) -> None:
    with Hub(dict(REPOSITORY)) as hub:
        cache = Cache(hub, tmp_path / "home")
        cache.python(CUT_SHORT, "config.json", "*.index.json", SHARDS[1])
        if not listed:
            cache.forget_the_list()
        assert cache.files() == {"config.json", "model.safetensors.index.json", SHARDS[1]}
        found = cache.python(FIND)
        assert found == ["None", f"Checkpoint(folder={cache.snapshot!r}, identity='me/it@{COMMIT}')"]
        assert cache.files() == NEEDED
    cache.leave_the_net()
    assert cache.python(FIND) == found


def test_files_of_tokenizer_and_chat_that_are_missing_are_fetched(tmp_path: Path) -> None:
    with Hub({**REPOSITORY, "chat_template.jinja": b"{{ messages }}"}) as hub:
        cache = Cache(hub, tmp_path / "home")
        cache.python(CUT_SHORT, "config.json", "*.safetensors*")
        cache.python(FIND)
        assert cache.files() == {*NEEDED, "chat_template.jinja"}


@pytest.mark.parametrize(
    ("listed", "fetched", "lacking"),
    [
        (True, ["config.json", "*.index.json", SHARDS[1]], f"{SHARDS[0]}, tokenizer.json"),
        (False, ["config.json", "*.index.json", SHARDS[1]], SHARDS[0]),
        (True, ["config.json", "tokenizer.json", SHARDS[0]], "model.safetensors.index.json"),
        (False, ["config.json", "tokenizer.json", SHARDS[0]], "model.safetensors"),
        (False, ["*.safetensors*"], "config.json"),
    ],
)
def test_what_cannot_be_completed_is_named_with_what_completes_it(
    tmp_path: Path, listed: bool, fetched: list[str], lacking: str
) -> None:
    with Hub(dict(REPOSITORY)) as hub:
        cache = Cache(hub, tmp_path / "home")
        cache.python(CUT_SHORT, *fetched)
    cache.leave_the_net()
    if not listed:
        cache.forget_the_list()
    assert cache.python(FIND) == 2 * [
        f"checkpoint me/it: {cache.snapshot} lacks {lacking}; with internet access, run: hf download "
        f"me/it --revision {COMMIT}"
    ]


SINGLE = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}
EXTRAS = {
    "model.fp16.safetensors": b"half",
    "rust/model.safetensors": b"rust",
    "training_args.txt": b"",
    "sub/1.model": b"",
    "all_results.json": b"{}",
}
ODDLY_NAMED = {"config.json": b"{}", "weights.safetensors": b"weights"}


@pytest.mark.parametrize(
    ("repository", "listed"),
    [(REPOSITORY, True), (REPOSITORY, False), (SINGLE | EXTRAS, True), (ODDLY_NAMED, True), (ODDLY_NAMED, False)],
)
def test_a_cache_with_all_that_a_model_needs_is_used_without_asking(
    tmp_path: Path, repository: dict[str, bytes], listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    with Hub(dict(repository)) as hub:
        cache = Cache(hub, tmp_path / "home")
        cache.python(BY_HAND)
        if not listed:
            cache.forget_the_list()
        for name in EXTRAS.keys() & repository.keys():
            (cache.snapshot / name).unlink()

        def refuse(handler: Any) -> None:
            asked.append(handler.path)
            handler.send_error(500)

        for method in ("do_GET", "do_HEAD"):
            monkeypatch.setattr(f"tests.ner.interop.hub._Handler.{method}", refuse)
        assert cache.python(FIND) == ["None", f"Checkpoint(folder={cache.snapshot!r}, identity='me/it@{COMMIT}')"]
    assert asked == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_proxys_page_is_no_hub(tmp_path: Path, begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub(dict(REPOSITORY)) as hub:
        cache = Cache(hub, tmp_path / "home")
        if begun:
            cache.python(CUT_SHORT, "config.json")
            cache.forget_the_list()

        def log_in(handler: Any) -> None:
            handler._send(b"<html>Log in</html>", 200, {"Content-Type": "text/html"})

        for method in ("do_GET", "do_HEAD"):
            monkeypatch.setattr(f"tests.ner.interop.hub._Handler.{method}", log_in)
        expected = "lacks model.safetensors; with" if begun else "the download failed (JSONDecodeError)"
        assert all(expected in message for message in cache.python(FIND))


REFUSALS = {
    "gated": ("/resolve/", 403, "GatedRepo", "accept them on its page, me/it, and log in (`hf auth login`)"),
    "unknown": ("/api/models/", 404, "RepoNotFound", "the hub has no such repository: check the name"),
    "revision": ("/api/models/", 404, "RevisionNotFound", "the hub has no such revision of it: check the revision"),
    "broken": ("/", 500, "", "the download failed (HfHubHTTPError): check the connection"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_why_the_hub_gives_nothing_is_said_with_what_to_do(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, status, code, expected = REFUSALS[name]
    with Hub(dict(REPOSITORY)) as hub:
        for method in ("do_GET", "do_HEAD"):
            answer = getattr(_Handler, method)

            def refuse(handler: Any, answer: Callable[[Any], None] = answer) -> None:
                if where in handler.path:
                    handler._send(b"", status, {"X-Error-Code": code} if code else {})
                else:
                    answer(handler)

            monkeypatch.setattr(_Handler, method, refuse)
        messages = Cache(hub, tmp_path / "home").python(FIND)
    assert len(messages) == 2
    for message in messages:
        assert message.startswith("checkpoint me/it: neither a local folder nor in the cache, and ")
        assert expected in message
        assert message.endswith("hf download me/it --local-dir checkpoints/it; then name that folder")


def test_a_process_that_is_kept_off_the_net_is_told_by_what(tmp_path: Path) -> None:
    with Hub(dict(REPOSITORY)) as hub:
        cache = Cache(hub, tmp_path / "home")
        cache.leave_the_net()
        assert all("HF_HUB_OFFLINE keeps this from asking the hub: unset it" in line for line in cache.python(FIND))


@pytest.mark.parametrize("find", [resolve, require])
def test_a_folder_that_lacks_a_shard_is_not_taken_for_whole(tmp_path: Path, find: Callable[[str], object]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in NEEDED - {SHARDS[0]}:
        (folder / name).write_bytes(REPOSITORY[name])
    with pytest.raises(UserError, match=rf"lacks {SHARDS[0]}; copy"):
        find(str(folder))
    (folder / "model.safetensors").write_bytes(b"whole")
    find(str(folder))
