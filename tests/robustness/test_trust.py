"""No checkpoint runs code of its own: neither pickles nor modules that lie beside its config."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core import checkpoints, records
from pipeline.core.errors import UserError
from tests.ner.conftest import ambiguous_views, small_params, xlm_r_folder
from tests.project import Project
from tests.robustness.conftest import light_project

__all__ = ["xlm_r_folder"]  # a fixture
CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({ran!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel
class EvilConfig(PretrainedConfig):
    model_type = "evil"
class EvilModel(PreTrainedModel):
    config_class = EvilConfig
"""
SECTIONS = {"objects": "transformers", "captions": "blip"}


def with_code(folder: Path, ran: Path, model_type: str = "evil") -> Path:
    """A checkpoint whose config names modules that lie beside it."""
    folder.mkdir(parents=True)
    (folder / "modeling_evil.py").write_text(CODE.format(ran=str(ran)), encoding="utf-8")
    auto = dict.fromkeys(("AutoModel", "AutoModelForObjectDetection"), "modeling_evil.EvilModel")
    (folder / "config.json").write_text(
        json.dumps({"model_type": model_type, "auto_map": {"AutoConfig": "modeling_evil.EvilConfig", **auto}}),
        encoding="utf-8",
    )
    for name, kind in (("tokenizer_config", "AutoTokenizer"), ("preprocessor_config", "AutoImageProcessor")):
        (folder / f"{name}.json").write_text(json.dumps({"auto_map": {kind: "modeling_evil.EvilModel"}}))
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def project_with(folder: Path, model: Path) -> Project:
    """A project all of whose checkpoints are this one."""
    project = light_project(folder, 2)
    project.edit(
        train={"encoder": str(model), "revision": None},
        **{section: {name: {"model": str(model), "revision": None}} for section, name in SECTIONS.items()},
    )
    return project


def assert_refused(output: str, model: Path, count: int = 1) -> None:
    lines = [line for line in output.splitlines() if str(model) in line]
    assert len(lines) == count, output
    assert all("needs code of its own (modeling_evil.EvilConfig" in line for line in lines)
    assert "Traceback" not in output


def test_checkpoints_that_need_their_own_code_are_refused_before_work_starts(tmp_path: Path) -> None:
    ran, project = tmp_path / "ran", project_with(tmp_path / "project", with_code(tmp_path / "evil", tmp_path / "ran"))
    output = project.run("python", "-m", "stages.check", expect=2)
    assert_refused(output, tmp_path / "evil", 3)
    for key in ("objects.transformers", "captions.blip", "train.encoder"):
        assert f"{key}: checkpoint" in output
    assert not ran.exists()


@pytest.mark.slow  # three starts of transformers
@pytest.mark.parametrize("section", [*SECTIONS, "train"])
def test_a_stage_refuses_a_checkpoint_that_needs_its_own_code(tmp_path: Path, section: str) -> None:
    ran, model = tmp_path / "ran", with_code(tmp_path / "evil", tmp_path / "ran")
    project = project_with(tmp_path / "project", model)
    if section == "train":
        for split in ("train", "dev"):
            records.write(project.folder / f"data/views/{split}.jsonl", ambiguous_views(4, 0))
        assert_refused(project.run("python", "-m", "stages.train", expect=2), model)
    else:
        output = str(tmp_path / "out.jsonl")
        assert_refused(
            project.run("python", "-m", f"stages.{section}", "--images", "set/images", "--output", output, expect=2),
            model,
        )
    assert not ran.exists()


def test_a_known_type_is_loaded_with_transformers_own_code(tmp_path: Path, xlm_r_folder: Path) -> None:
    """Many a published checkpoint still names code that has since become part of transformers."""
    from ner.models.folder import load_tokenizer
    from ner.models.ita import ItaTagger

    model = tmp_path / "model"
    shutil.copytree(xlm_r_folder, model)
    ran = tmp_path / "ran"
    (model / "modeling_evil.py").write_text(CODE.format(ran=str(ran)), encoding="utf-8")
    for name, kinds in (("config", ("AutoConfig", "AutoModel")), ("tokenizer_config", ("AutoTokenizer",))):
        settings = json.loads((model / f"{name}.json").read_text(encoding="utf-8"))
        settings["auto_map"] = dict.fromkeys(kinds, "modeling_evil.EvilModel")
        (model / f"{name}.json").write_text(json.dumps(settings), encoding="utf-8")
    assert checkpoints.resolve(str(model)).folder == model
    ItaTagger.from_encoder(model, ["O", "S-LOC"], small_params(model))
    load_tokenizer(model)
    assert not ran.exists()


def test_there_is_no_option_to_run_it(tmp_path: Path) -> None:
    project = light_project(tmp_path / "project", 2)
    project.edit(captions={"blip": {"trust_remote_code": True}}, train={"trust_remote_code": True})
    output = project.run("python", "-m", "stages.check", expect=2)
    assert "trust_remote_code: unknown key" in output


def test_pickled_weights_are_refused_with_the_converter(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    model = tmp_path / "pickled"
    model.mkdir()
    torch.save({"weight": Hostile()}, model / "pytorch_model.bin")
    (model / "config.json").write_text('{"model_type": "bert"}')
    project = project_with(tmp_path / "project", model)
    output = project.run("python", "-m", "stages.check", expect=2)
    assert output.count(f"python -m pipeline.checkpoints convert {model}") == 3, "detector, captioner and encoder"
    assert "Traceback" not in output
    converted = project.run("python", "-m", "pipeline.checkpoints", "convert", str(model), expect=2)
    assert "holds more than tensors, and is not loaded" in converted
    assert not (tmp_path / "ran").exists()


def test_a_hub_download_brings_no_code() -> None:
    """What is fetched from a hub is weights, JSON and vocabularies: no module, no pickle."""
    from fnmatch import fnmatch

    for name in ("modeling_evil.py", "pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl", "setup.sh"):
        assert not any(fnmatch(name, pattern) for pattern in checkpoints._DOWNLOADED)


def test_what_is_left_to_transformers_is_refused_without_a_question(tmp_path: Path) -> None:
    """A config without model_type, say, whose code transformers would ask about on a terminal."""
    from ner.models.folder import load_tokenizer

    ran = tmp_path / "ran"
    model = with_code(tmp_path / "evil", ran)
    with pytest.raises(UserError, match="needs code of its own"):
        checkpoints.require(str(model))
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_tokenizer(model)
    assert not ran.exists()
