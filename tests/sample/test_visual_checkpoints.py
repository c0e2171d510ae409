"""The captioner, the detector and the ResNet that ship: ordinary small checkpoints, good at the sample's pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoTokenizer,
    BlipForConditionalGeneration,
    BlipProcessor,
    ResNetModel,
)

from sample import checkpoint_quality, render, train_resnet, training_pictures
from sample.detector_losses import DenseLoss, one_query_a_thing, overlaps, settling_loss
from sample.train_captioner import caption_tokens, processor
from sample.train_detector import SIZE, STRIDES

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINTS = ROOT / "checkpoints" / "sample"
BLIP, DETECTOR, RESNET = CHECKPOINTS / "blip", CHECKPOINTS / "detector", CHECKPOINTS / "resnet"
PICTURES = 64


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("folder", [BLIP, DETECTOR, RESNET], ids=lambda folder: folder.name)
def test_weights_are_safetensors_and_the_folder_names_no_machine(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt"))]
    for path in folder.glob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text(encoding="utf-8"))


def test_all_sample_checkpoints_together_are_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINTS.rglob("*") if path.is_file()) <= 16 * 2**20


def test_the_detector_loads_like_any_detector_and_knows_the_classes() -> None:
    model, loading = AutoModelForObjectDetection.from_pretrained(DETECTOR, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert tuple(model.config.id2label[k] for k in range(model.config.num_labels)) == render.CLASSES
    images = AutoImageProcessor.from_pretrained(DETECTOR, backend="pil")
    picture = next(training_pictures.pictures(render.HELD_OUT_SPACE, 1))
    assert images(picture.image, return_tensors="pt")["pixel_values"].shape == (1, 3, *SIZE)


def test_the_captioner_loads_and_generates_like_any_blip() -> None:
    model, loading = BlipForConditionalGeneration.from_pretrained(BLIP, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    blip = BlipProcessor.from_pretrained(BLIP)
    picture = next(training_pictures.pictures(render.HELD_OUT_SPACE, 1))
    ids = model.eval().generate(**blip(picture.image, return_tensors="pt"), num_beams=3, max_new_tokens=20)
    text = blip.decode(ids[0], skip_special_tokens=True)
    assert text.split()[0] in ("a", "an")
    assert ids[0, -1] == blip.tokenizer.sep_token_id  # it knows when to stop


def test_the_resnet_loads_like_any_resnet_and_is_small() -> None:
    model, loading = ResNetModel.from_pretrained(RESNET, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.hidden_sizes == train_resnet.config().hidden_sizes
    assert sum(path.stat().st_size for path in RESNET.iterdir()) <= 4 * 2**20


def test_every_caption_is_made_of_known_words() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BLIP)
    assert tokenizer.get_vocab() == processor().tokenizer.get_vocab()
    tokens = caption_tokens(tokenizer)
    assert not (tokens == tokenizer.unk_token_id).any()
    told = tokenizer.decode(tokens[1, 3, 2], skip_special_tokens=True)
    assert told == render.caption(render.Spec("desert", [render.Thing("cup", "orange")]))


def test_any_prompt_can_be_encoded() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BLIP)
    ids = tokenizer("a picture of Zürich, 2016!").input_ids
    assert tokenizer.unk_token_id not in ids


@pytest.mark.slow  # every checkpoint of the sample
def test_quality_on_held_out_pictures() -> None:
    """Looser than what the cards say, for few pictures; `python -m sample.checkpoint_quality` measures on many."""
    sections = {
        "objects": {"extractor": "transformers", "transformers": {"model": str(DETECTOR)}},
        "captions": {"extractor": "blip", "blip": {"model": str(BLIP)}},
        "ocr": {"extractor": "rapidocr", "rapidocr": {}},
        "features": {"extractor": "resnet", "resnet": {"model": str(RESNET)}},
    }  # fmt: skip
    results = checkpoint_quality.measure(sections, PICTURES)
    assert results["objects"]["f1"] >= 0.85
    assert results["captions"]["exact"] >= 0.70
    assert results["captions"]["distinct_captions"] > 0.9 * PICTURES
    assert results["ocr"]["character_error_rate"] <= 0.08
    assert results["features"]["scene"] >= 0.80  # fitted to 32 pictures


def test_the_linear_probe_finds_what_is_in_the_features_and_nothing_in_noise() -> None:
    pictures = list(training_pictures.pictures(render.HELD_OUT_SPACE, 80))
    telling = []
    for picture in pictures:
        regions = np.zeros((4, len(render.SCENES) + len(render.CLASSES)), np.float16)
        regions[:, render.SCENES.index(picture.spec.scene)] = 1
        for thing in picture.spec.things:
            regions[0, len(render.SCENES) + render.CLASSES.index(thing.label)] = 1
        telling.append(regions)
    scores = checkpoint_quality.probe_scores(telling, pictures)
    assert scores["scene"] == 1.0
    assert scores["things_f1"] > 0.9
    noise = np.random.default_rng(0).normal(size=(80, 4, 26)).astype(np.float16)
    assert checkpoint_quality.probe_scores(list(noise), pictures)["scene"] < 0.5


def test_a_region_is_taught_the_thing_whose_box_its_centre_is_in() -> None:
    labels = torch.tensor([[3, 5, -1, -1]])
    boxes = torch.tensor([[[0.5, 0.5, 0.3, 0.15], [0.64, 0.5, 0.2, 0.5], [0.1, 0.1, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    grid = train_resnet.shown(labels, boxes).reshape(7, 7)
    assert grid[3].tolist() == [18, 18, 3, 3, 5, 18, 18]
    assert grid[2].tolist() == [18, 18, 18, 18, 5, 18, 18]
    assert grid[0].tolist() == [18] * 7


def test_tag_scores_count_multisets() -> None:
    scores = checkpoint_quality.tag_scores([["cup", "cup"], ["dog"]], [["cup", "hat"], ["dog", "dog"]])
    assert scores["precision"] == pytest.approx(2 / 3)
    assert scores["recall"] == pytest.approx(2 / 4)
    assert scores["f1"] == pytest.approx(4 / 7)


@pytest.mark.parametrize(("found", "expected", "count"), [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3)])
def test_edits(found: str, expected: str, count: int) -> None:
    assert checkpoint_quality.edits(found, expected) == checkpoint_quality.edits(expected, found) == count


def test_sign_scores() -> None:
    scores = checkpoint_quality.sign_scores(["OPEN", "SALF", "", "8"], ["OPEN", "SALE", None, None])
    assert scores == {"character_error_rate": 1 / 8, "exact": 0.5, "false_reading_rate": 0.5}


def test_the_dense_loss_wants_class_and_box_at_the_centre_cell_of_the_right_map() -> None:
    loss = DenseLoss(SIZE, STRIDES)
    cells = sum((SIZE[0] // stride) * (SIZE[1] // stride) for stride in STRIDES)
    labels = torch.tensor([[3, -1]])
    truth = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.0, 0.0, 0.0, 0.0]]])
    columns = SIZE[1] // STRIDES[0]
    right = (SIZE[0] // STRIDES[0] // 2) * columns + columns // 2  # one of the four cells around the middle

    def at(cell: int, label: int) -> float:
        logits, boxes = torch.full((1, cells, len(render.CLASSES)), -8.0), torch.zeros(1, cells, 4)
        logits[0, cell, label] = 8.0
        boxes[0, :] = torch.logit(truth[0, 0])
        return loss(logits, boxes, labels, truth).item()

    best = min(at(cell, 3) for cell in (right, right - 1, right - columns, right - columns - 1))
    assert best < 0.05
    assert at(right, 4) > 1
    assert at(0, 3) > 1
    assert at(cells - 1, 3) > 1


def test_overlaps_of_boxes() -> None:
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    expected = torch.tensor([[[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]]])
    assert torch.allclose(overlaps(boxes, boxes), expected, atol=1e-5)


def test_of_several_queries_the_best_scored_about_the_thing_reports_it() -> None:
    truth = torch.tensor([[[0.5, 0.5, 0.2, 0.2]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]])
    logits = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [9.0, 9.0]]])
    assert one_query_a_thing(logits, boxes, torch.tensor([[0]]), truth).tolist() == [[1]]
    assert one_query_a_thing(logits, boxes[:, [2, 2, 0]], torch.tensor([[0]]), truth).tolist() == [[2]]


def test_the_settling_loss_punishes_a_second_report() -> None:
    labels, truth, queries = torch.tensor([[1]]), torch.tensor([[[0.5, 0.5, 0.2, 0.2]]]), torch.tensor([[0]])
    boxes = truth[:, None].expand(1, 2, 3, 4)
    once = torch.full((1, 2, 3, 4), -9.0)
    once[:, :, 0, 1] = 9.0
    twice = once.clone()
    twice[:, :, 2, 1] = 9.0
    assert settling_loss(once, boxes, queries, labels, truth) < 0.01
    assert settling_loss(twice, boxes, queries, labels, truth) > 10
