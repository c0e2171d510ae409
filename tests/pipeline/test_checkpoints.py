"""Checkpoints are found, identified by what a model reads, and never unpickled."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.checkpoints import convert, digest, require, resolve
from pipeline.errors import UserError


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
def test_what_is_missing_says_how_to_get_it(tmp_path: Path, find: "type[resolve]") -> None:
    with pytest.raises(UserError, match="hf download no-such-owner/no-such-model"):
        find("no-such-owner/no-such-model")
    with pytest.raises(UserError, match="no such folder"):
        find(str(tmp_path / "nowhere" / "at" / "all"))


def test_a_revision_of_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="revision: null"):
        resolve(str(checkpoint(tmp_path / "model")), "main")


def test_pickles_are_refused_and_converted(tmp_path: Path) -> None:
    tensor = torch.arange(3.0)
    torch.save({"a": tensor, "tied": tensor}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle .*python -m pipeline\.checkpoints convert"):
        resolve(str(tmp_path))
    convert(tmp_path)
    assert resolve(str(tmp_path)).folder == tmp_path
    assert torch.equal(load_file(tmp_path / "model.safetensors")["tied"], tensor)


def test_a_pickle_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"a": Hostile()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds more than tensors"):
        convert(tmp_path)
    assert not (tmp_path / "ran").exists()
