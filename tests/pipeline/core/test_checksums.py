"""Folders that were saved here are loaded as they were saved, or refused with what has changed."""

from pathlib import Path

import pytest

from pipeline.core.checksums import seal, verify
from pipeline.core.errors import UserError


def saved(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "model.safetensors").chmod(0o600)  # as safetensors' own writer leaves it
    (folder / "README.md").write_text("a card")
    seal(folder)
    return folder


def test_what_is_as_it_was_saved_passes_and_a_card_may_change(tmp_path: Path) -> None:
    folder = saved(tmp_path / "tagger")
    (folder / "README.md").write_text("another card")
    (folder / "notes.txt").write_text("a user's own")
    verify(folder, "tagger")


def test_every_change_is_named_and_sealing_again_accepts_it(tmp_path: Path) -> None:
    folder = saved(tmp_path / "tagger")
    (folder / "config.json").write_text("{ }")
    (folder / "model.safetensors").unlink()
    (folder / "added_tokens.json").write_text("{}")
    named = r"added_tokens\.json was added, config\.json has changed, model\.safetensors is missing; .* seal"
    with pytest.raises(UserError, match=named):
        verify(folder, "tagger")
    seal(folder)
    verify(folder, "tagger")


def test_weights_get_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    wanted = (tmp_path / "new").stat().st_mode
    assert (saved(tmp_path / "tagger") / "model.safetensors").stat().st_mode == wanted


@pytest.mark.parametrize("content", ["[]", "no JSON", '{"../x": "0"}'])
def test_checksums_that_are_damaged_are_an_error(content: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "tagger")
    (folder / "checksums.json").write_text(content)
    with pytest.raises(UserError, match=r"checksums\.json"):
        verify(folder, "tagger")
