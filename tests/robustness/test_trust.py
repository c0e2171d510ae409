"""No checkpoint runs code, of pickles or of modules beside its config, and none leads out of its folder."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core import checkpoints, records, trust
from pipeline.core.errors import UserError
from tests.conftest import ROOT
from tests.ner.conftest import ambiguous_views, small_params, tagger_folder, xlm_r_folder
from tests.project import Project
from tests.robustness.conftest import light_project

__all__ = ["tagger_folder", "xlm_r_folder"]  # fixtures
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
    assert all("needs its own code (modeling_evil.EvilConfig" in line for line in lines)
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
        for split, count in (("train", 4), ("dev", 4), ("unlabelled", 0)):
            records.write(project.folder / f"data/views/{split}.jsonl", ambiguous_views(count, 0))
        assert_refused(project.run("python", "-m", "stages.train", expect=2), model)
    else:
        output = str(tmp_path / "out.jsonl")
        assert_refused(
            project.run("python", "-m", f"stages.{section}", "--images", "set/images", "--output", output, expect=2),
            model,
        )
    assert not ran.exists()


def test_a_type_that_transformers_has_itself_needs_a_copy_without_auto_map(tmp_path: Path) -> None:
    folder = shutil.copytree(SAMPLE / "xlm-r", tmp_path / "model")
    (folder / "checksums.json").unlink()
    code_at_the_top(folder, tmp_path)
    with pytest.raises(UserError, match=r"own for the type 'xlm-roberta': name a folder with a copy .* config\.json$"):
        checkpoints.require(str(folder))
    edited(folder / "config.json", auto_map=None)
    checkpoints.require(str(folder))


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
    assert "contains more than tensors, so it was not loaded" in converted
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
    with pytest.raises(UserError, match="needs its own code"):
        checkpoints.require(str(model))
    with pytest.raises(UserError, match="needs its own code"):
        load_tokenizer(model)
    assert not ran.exists()


def extractor(kind: str, name: str, folder: Path, **options: object) -> None:
    from pipeline.extractors.base import LoadingExtractor
    from pipeline.extractors.registry import choose
    from pipeline.settings.params import ExecutionParams

    section = {"extractor": name, name: {"model": str(folder), **options}}
    made = choose(kind, section).create(ExecutionParams(device="cpu"))
    assert isinstance(made, LoadingExtractor)
    made.load()


def encoder(folder: Path) -> None:
    from ner.models.ita import ItaTagger

    ItaTagger.from_encoder(folder, ["O", "S-LOC"], small_params(folder))


def tokenizer(folder: Path) -> None:
    from ner.models.folder import load_tokenizer

    load_tokenizer(folder)


def tagger(folder: Path) -> None:
    from ner.tagger import Tagger

    Tagger.load(folder, "cpu")


def processor(folder: Path) -> None:
    from pipeline.extractors import _torch

    _torch.image_processor(checkpoints.resolve(str(folder)).folder, str(folder))


def clip(folder: Path) -> None:
    from pipeline.extractors.attributes import AttributesOptions

    AttributesOptions(model=str(folder)).require()


SAMPLE = ROOT / "checkpoints/sample"
LOADERS: dict[str, tuple[Path | None, Callable[[Path], None]]] = {
    "encoder": (SAMPLE / "xlm-r", encoder),
    "tokenizer": (SAMPLE / "xlm-r", tokenizer),
    "captioner": (SAMPLE / "blip", lambda folder: extractor("captions", "blip", folder)),
    "detector": (SAMPLE / "detector", lambda folder: extractor("objects", "transformers", folder)),
    "processor": (SAMPLE / "detector", processor),
    "CLIP": (SAMPLE / "blip", clip),
    "tagger": (None, tagger),
}


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def code_inside(folder: Path, outside: Path) -> None:
    edited(folder / "config.json", encoder={"inner": [{"auto_map": {"AutoModel": "modeling_evil.EvilModel"}}]})


def code_at_the_top(folder: Path, outside: Path) -> None:
    """Of a type that transformers has itself, as many a published checkpoint names it still."""
    edited(folder / "config.json", auto_map={"AutoConfig": "modeling_evil.EvilConfig"})


def code_of_the_tokenizer(folder: Path, outside: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["modeling_evil.Evil"]}}))


def code_in_another_config(folder: Path, outside: Path) -> None:
    (folder / "chat_config.json").write_text(json.dumps({"a": {"auto_map": {"AutoProcessor": "modeling_evil.Evil"}}}))


def attention_of_the_hub(folder: Path, outside: Path) -> None:
    edited(folder / "config.json", text_config={"attn_implementation": "somebody/attention"})


def index(folder: Path, shard: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))


def shard_outside(folder: Path, outside: Path) -> None:
    index(folder, f"../{outside.name}/model.safetensors")


def hidden_shard(folder: Path, outside: Path) -> None:
    index(folder, ".model.safetensors")


def link_outside(folder: Path, outside: Path) -> None:
    (folder / "vocab.txt").symlink_to(outside / "secret")


def linked_folder(folder: Path, outside: Path) -> None:
    (folder / "more").symlink_to(outside)


def tokenizer_outside(folder: Path, outside: Path) -> None:
    names = {"fast_tokenizer_files": [f"../{outside.name}/tokenizer.1.0.json"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


HOSTILE: dict[Callable[[Path, Path], None], str] = {
    code_inside: "needs its own code",
    code_at_the_top: r"needs its own code \(modeling_evil.EvilConfig; auto_map in config.json\)",
    code_of_the_tokenizer: r"needs its own code .*; auto_map in tokenizer_config.json\)",
    code_in_another_config: r"needs its own code \(modeling_evil.Evil; auto_map in chat_config.json",
    attention_of_the_hub: "names code on the hub",
    shard_outside: "names the file of weights",
    hidden_shard: "names the file of weights",
    link_outside: "a link that leads out of the folder",
    linked_folder: "is a linked folder",
    tokenizer_outside: "which is not a file beside it",
}


@pytest.mark.parametrize("spoil", HOSTILE, ids=lambda spoil: spoil.__name__)
@pytest.mark.parametrize("loader", LOADERS)
def test_no_loader_runs_code_asks_or_leaves_the_folder(
    loader: str,
    spoil: Callable[[Path, Path], None],
    tagger_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused by name, before anything is loaded; what waits on stdin, as texts for ner.predict do, is not read."""
    source, load = LOADERS[loader]
    folder = shutil.copytree(source or tagger_folder, tmp_path / "model")
    (folder / "checksums.json").unlink(missing_ok=True)
    ran, outside = tmp_path / "ran", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (folder / "modeling_evil.py").write_text(CODE.format(ran=str(ran)), encoding="utf-8")
    spoil(folder, outside)
    stdin = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UserError, match=HOSTILE[spoil]):
        load(folder)
    assert stdin.tell() == 0
    assert not ran.exists()


def test_links_to_stores_of_contents_are_followed(tmp_path: Path) -> None:
    """DVC puts them where its cache is linked; the content is in the digest."""
    folder = shutil.copytree(SAMPLE / "xlm-r", tmp_path / "model")
    before = checkpoints.resolve(str(folder)).identity
    stored = tmp_path / ".dvc/cache/files/md5/ab" / ("c" * 30)
    stored.parent.mkdir(parents=True)
    (folder / "model.safetensors").rename(stored)
    (folder / "model.safetensors").symlink_to(stored)
    assert checkpoints.resolve(str(folder)).identity == before


def test_a_list_of_training_data_beside_a_model_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "data_config.json").write_text('[{"name": "a data set", "auto_map": {}}]')
    assert trust.inspect(tmp_path, "here") == {"model_type": "bert"}
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is not an object"):
        trust.inspect(tmp_path, "here")


def test_a_pipe_in_a_checkpoint_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    folder = shutil.copytree(SAMPLE / "xlm-r", tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer\.json is no regular file"):
        checkpoints.require(str(folder))
