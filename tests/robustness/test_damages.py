"""Checkpoints that were damaged: each file cut, zeroed, removed or swapped ends in one message, or loads the same."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.core import checkpoints, checksums
from pipeline.core.errors import UserError
from tests.ner.conftest import tagger_folder, xlm_r_folder
from tests.robustness.test_trust import LOADERS

__all__ = ["tagger_folder", "xlm_r_folder"]  # fixtures


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeroed(file: Path) -> None:
    """A page of zeros, as a disk or a broken download leaves it."""
    content = bytearray(file.read_bytes())
    place = len(content) // 2
    content[place : place + 4096] = bytes(len(content[place : place + 4096]))
    file.write_bytes(content)


def swapped(file: Path) -> None:
    others = [path for path in file.parent.iterdir() if path not in (file, file.parent / checksums.FILE)]
    shutil.copyfile(min(others), file)


DAMAGES: tuple[Callable[[Path], None], ...] = (cut, zeroed, Path.unlink, swapped)


def damaged(source: Path, target: Path, *, sealed: bool) -> list[tuple[Path, str]]:
    """Copies of a folder, one for each file and damage, and what was done to each."""
    copies = []
    for name in sorted(path.name for path in source.iterdir() if path.suffix != ".md" and path.name != checksums.FILE):
        for damage in DAMAGES:
            folder = shutil.copytree(source, target / f"{name}-{damage.__name__}")
            (folder / checksums.FILE).unlink(missing_ok=True)
            if sealed:
                checksums.seal(folder)
            damage(folder / name)
            copies.append((folder, f"{damage.__name__} {name}"))
    return copies


def resolved(folder: Path) -> None:
    checkpoints.resolve(str(folder))


def refusal(load: Callable[[Path], None], folder: Path) -> str | None:
    """What loading a folder is refused with; None where it is loaded. Any other error is the test's."""
    try:
        load(folder)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("loader", ["tagger", "encoder", "captioner", "detector"])
def test_every_damage_to_a_sealed_folder_is_one_message(loader: str, tagger_folder: Path, tmp_path: Path) -> None:
    source, load = LOADERS[loader]
    for folder, what in damaged(source or tagger_folder, tmp_path, sealed=True):
        message = refusal(load if loader == "tagger" else resolved, folder)  # stages resolve before they load
        assert message is not None, what
        assert str(folder) in message, what
        assert "\n" not in message, what


@pytest.mark.parametrize("loader", ["tagger", "encoder", "captioner", "detector"])
def test_a_damage_without_checksums_is_one_message_or_loads(loader: str, tagger_folder: Path, tmp_path: Path) -> None:
    """Zeros amid the weights are numbers like others; anything else about weights and vocabulary is seen."""
    source, load = LOADERS[loader]
    harmless = []
    for folder, what in damaged(source or tagger_folder, tmp_path, sealed=False):
        message = refusal(load, folder)
        assert "\n" not in (message or ""), what
        if message is None:
            harmless.append(what)
    assert not [what for what in harmless if "model.safetensors" in what and not what.startswith("zeroed")]
    assert not [what for what in harmless if what.endswith(" config.json")]
    assert loader == "encoder" or "unlink tokenizer.json" not in harmless


@pytest.mark.parametrize("part", ["crf.", "emission.", "encoder.encoder.layer.1.", "encoder.embeddings."])
def test_a_tagger_without_some_of_its_weights_is_refused(part: str, tagger_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tagger_folder, tmp_path / "tagger")
    weights = load_file(folder / "model.safetensors")
    kept = {name: values for name, values in weights.items() if not name.startswith(part)}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"is no whole ItaTagger: it lacks \d+ weights \({part}"):
        LOADERS["tagger"][1](folder)


def test_a_tagger_with_surplus_weights_is_refused(tagger_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tagger_folder, tmp_path / "tagger")
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "more": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"it has 1 weights for which its config.json has no place \(more, …\)"):
        LOADERS["tagger"][1](folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tagger_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tagger_folder, tmp_path / "tagger")
    weights = load_file(folder / "model.safetensors")
    weights["emission.weight"][0, 0] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weights emission\.weight are not all finite numbers"):
        LOADERS["tagger"][1](folder)


def test_a_tokenizer_without_vocabulary_is_refused(tmp_path: Path) -> None:
    for loader in ("tokenizer", "captioner"):
        source, load = LOADERS[loader]
        folder = shutil.copytree(source or "", tmp_path / loader)
        for name in ("tokenizer.json", checksums.FILE):
            (folder / name).unlink()
        with pytest.raises(UserError, match="its tokenizer has no vocabulary, so every word would be unknown"):
            load(folder)


def test_an_encoder_with_more_layers_than_its_config_says_is_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(xlm_r_folder, tmp_path / "encoder")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 1'))
    with pytest.raises(UserError, match=r"it has 16 weights for which its config.json has no place \(encoder.layer.1"):
        LOADERS["encoder"][1](folder)
