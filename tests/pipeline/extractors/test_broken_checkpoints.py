"""A checkpoint that lacks weights, is cut short or does not fit ends the run with one message."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.extractors import _torch
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams
from tests.pipeline.extractors.cases import make, ready, tags


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def rewritten(folder: Path, target: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """A copy of a checkpoint whose tensors have gone through `change`."""
    from safetensors.torch import save_file

    shutil.copytree(folder, target)
    save_file(change(weights_of(folder)), target / "model.safetensors", metadata={"format": "pt"})
    return target


def without(*parts: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """All tensors but those with one of `parts` in their name."""
    return lambda weights: {name: value for name, value in weights.items() if not any(part in name for part in parts)}


def reading(kind: str, name: str, folder: Path, options: dict[str, Any]) -> Any:
    """The extractor `name` on the checkpoint in `folder`, its model not loaded yet."""
    return make((kind, {"extractor": name, name: {"model": str(folder), **options}}))


@pytest.mark.parametrize(
    ("checkpoint", "kind", "extractor", "options", "part", "model"),
    [
        ("blip", "captions", "blip", {}, "text_decoder.", "BlipForConditionalGeneration"),
        ("blip_2", "captions", "blip", {}, "language_projection.", "Blip2ForConditionalGeneration"),
        ("git", "captions", "blip", {}, "git.encoder.", "GitForCausalLM"),
        ("florence2", "ocr", "florence2", {"max_new_tokens": 9}, "vision_tower.", "Florence2ForConditionalGeneration"),
        ("llava", "captions", "vlm", {"prompt": "a"}, "multi_modal_projector.", "LlavaForConditionalGeneration"),
        ("yolos", "objects", "transformers", {}, "class_labels_classifier.", "YolosForObjectDetection"),
        ("rt_detr", "objects", "transformers", {}, "class_embed.", "RTDetrForObjectDetection"),
        ("rf_detr", "objects", "transformers", {}, "class_embed.", "RfDetrForObjectDetection"),
        (
            "grounding_dino",
            "objects",
            "zero_shot",
            {"labels": ["dog"]},
            "bbox_embed.",
            "GroundingDinoForObjectDetection",
        ),
        ("owlv2", "objects", "zero_shot", {"labels": ["dog"]}, "class_head.", "Owlv2ForObjectDetection"),
    ],
)
def test_a_checkpoint_that_lacks_weights_is_refused(
    checkpoint: str,
    kind: str,
    extractor: str,
    options: dict[str, Any],
    part: str,
    model: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    pictures: list[Image.Image],
) -> None:
    """transformers fills up what is missing with random weights, and what comes of them looks like any result."""
    whole = request.getfixturevalue(checkpoint)
    lacking = rewritten(whole, tmp_path / "lacking", without(part))
    assert (tmp_path / "lacking" / "model.safetensors").stat().st_size < (whole / "model.safetensors").stat().st_size
    with pytest.raises(
        UserError,
        match=rf"^checkpoint {lacking} is no whole {model}: it lacks \d+ weights "
        rf"\(\S*{part}\S+, …\); .*choose another checkpoint$",
    ):
        reading(kind, extractor, lacking, options).load()


def test_attributes_of_a_checkpoint_that_lacks_weights_are_refused(
    clip: Path, yolos: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    lacking = rewritten(clip, tmp_path / "lacking", without("text_projection"))
    section = {
        "extractor": "transformers",
        "transformers": {"model": str(yolos), "threshold": 0.0},
        "attributes": {"model": str(lacking)},
    }
    with pytest.raises(UserError, match=r"lacking is no whole CLIPModel: it lacks 1 weights \(text_projection\.weight"):
        ready(("objects", section)).extract(pictures[:1])


def test_what_batch_normalisation_has_counted_may_be_missing(
    rt_detr: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    assert any("num_batches_tracked" in name for name in weights_of(rt_detr))
    lacking = rewritten(rt_detr, tmp_path / "lacking", without("num_batches_tracked"))
    assert tags(lacking, pictures, threshold=0.2) == tags(rt_detr, pictures, threshold=0.2)


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 123\n")


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def configured(**changes: Any) -> Callable[[Path], None]:
    def configure(folder: Path) -> None:
        config = folder / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))

    return configure


DETR_OF_TIMM = {
    "architectures": ["DetrForObjectDetection"],
    "model_type": "detr",
    "backbone": "resnet50",
    "use_timm_backbone": True,
    "use_pretrained_backbone": True,
}
"""The configuration of facebook/detr-resnet-50, as far as it matters here."""


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pointer, "cannot load it: .*git-LFS has not fetched: fetch the checkpoint again"),
        (cut_short, "cannot load it: .*are cut short.*fetch the checkpoint again"),
        (
            configured(hidden_size=64),
            r"is no whole YolosForObjectDetection: \d+ of its weights have another shape than its "
            r"config.json says \(\S+ is \[32\], expected \[64\], …\)",
        ),
        (configured(hidden_size="large"), "cannot load it: .*hidden_size.*large"),
        pytest.param(
            configured(**DETR_OF_TIMM),
            "cannot load it: .*timm",
            marks=pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed"),
        ),
    ],
    ids=["LFS pointer", "cut short", "wrong shapes", "wrong type", "without timm"],
)
def test_a_broken_checkpoint_ends_the_run_with_one_message(
    spoil: Callable[[Path], None], message: str, yolos: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """At the first picture; it is neither that picture's row nor tried once more for each of the others."""
    folder = tmp_path / "model"
    shutil.copytree(yolos, folder)
    spoil(folder)
    pictures[0].save(tmp_path / "a.png")
    rows, extractor = manifest(["a.png"], tmp_path, ImagesParams()), reading("objects", "transformers", folder, {})
    with Store.open(tmp_path / "store") as store, pytest.raises(UserError, match=f"^checkpoint {folder}:? .*{message}"):
        extract("objects", extractor, rows, tmp_path, tmp_path / "out.jsonl", store)


def test_memory_that_runs_out_while_a_model_is_loaded_ends_the_run() -> None:
    import torch

    class Large:
        @staticmethod
        def from_pretrained(*_: Any, **__: Any) -> None:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with pytest.raises(UserError, match="name: Large cannot load it: memory runs out; take a smaller model"):
        _torch.load(Large, "folder", "name", "float32", torch.device("cpu"))
