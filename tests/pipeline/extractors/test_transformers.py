"""What the adapters of transformers' models give: what transformers itself gives, sorted, cut and scored."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import Caption
from pipeline.core.store import Store
from pipeline.engine.run import extract
from pipeline.extractors import _torch
from pipeline.extractors.blip import Nucleus
from pipeline.extractors.registry import choose
from pipeline.images.manifest import manifest
from pipeline.settings.params import ExecutionParams, ImagesParams
from tests.pipeline.extractors.cases import WORDS, make, ready


def tags(folder: Path, pictures: list[Image.Image], **options: Any) -> list[list[Any]]:
    section = {"extractor": "transformers", "transformers": {"model": str(folder), **options}}
    return [list(found) for found in ready(("objects", section)).extract(pictures)]


@pytest.mark.parametrize("name", ["yolos", "rt_detr"])
def test_object_tags_are_those_of_transformers(
    name: str, request: pytest.FixtureRequest, pictures: list[Image.Image]
) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    folder = request.getfixturevalue(name)
    processor = AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    for picture, found in zip(pictures[:4], tags(folder, pictures[:4], threshold=0.2), strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"))
        expected = processor.post_process_object_detection(outputs, 0.2, [(picture.height, picture.width)])[0]
        assert len(found) == len(expected["scores"]) > 0
        best = int(expected["scores"].argmax())
        assert found[0].label == model.config.id2label[int(expected["labels"][best])]
        assert found[0].score == pytest.approx(float(expected["scores"][best]), abs=2e-4)
        box = expected["boxes"][best].clamp(min=0)
        limits = torch.tensor([picture.width, picture.height] * 2)
        assert found[0].box == pytest.approx(torch.minimum(box, limits).tolist(), abs=0.1)


def test_object_tags_are_sorted_cut_and_inside_the_picture(yolos: Path, pictures: list[Image.Image]) -> None:
    everything = tags(yolos, pictures, threshold=0.0)
    for picture, found in zip(pictures, everything, strict=True):
        assert [tag.score for tag in found] == sorted((tag.score for tag in found), reverse=True)
        for x0, y0, x1, y1 in (tag.box for tag in found):
            assert 0 <= x0 <= x1 <= picture.width
            assert 0 <= y0 <= y1 <= picture.height
    assert tags(yolos, pictures, threshold=0.0, max_objects=3) == [found[:3] for found in everything]
    assert tags(yolos, pictures, threshold=1.0) == [[]] * 16


def test_a_detector_that_gives_nan_gives_failed_rows(yolos: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    """The threshold would leave NaN out, and the picture would seem to hold nothing."""
    import torch
    from transformers import YolosForObjectDetection

    shutil.copytree(yolos, tmp_path / "model")
    model = YolosForObjectDetection.from_pretrained(yolos)
    with torch.no_grad():
        model.class_labels_classifier.layers[0].bias.fill_(3e38)
    model.save_pretrained(tmp_path / "model")
    pictures[0].save(tmp_path / "a.png")
    rows = list(manifest(["a.png"], tmp_path, ImagesParams()))
    extractor = ready(("objects", {"extractor": "transformers", "transformers": {"model": str(tmp_path / "model")}}))
    with Store.open(tmp_path / "store") as store:
        summary = extract("objects", extractor, rows, tmp_path, tmp_path / "out.jsonl", store)
    assert (summary.read, summary.failed) == (0, 1)
    assert "NaN" in (tmp_path / "out.jsonl").read_text()


def captions(folder: Path, pictures: list[Image.Image], **options: Any) -> list[list[Caption]]:
    section = {"extractor": "blip", "blip": {"model": str(folder), **options}}
    return [list(found) for found in ready(("captions", section)).extract(pictures)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 3},
        {"num_beams": 4, "num_captions": 3},
        {"num_beams": 3, "prompt": "a picture of"},
        {"num_beams": 1, "prompt": "a picture of"},
        {"decoding": "nucleus", "num_captions": 3},
        {"decoding": "nucleus", "temperature": 0.5, "prompt": "a picture of"},
    ],
    ids=str,
)
def test_a_captions_score_is_the_geometric_mean_of_its_tokens(
    blip: Path, options: dict[str, Any], pictures: list[Image.Image]
) -> None:
    """Against the probabilities that the model gives the caption when it is read back to it, token by token."""
    import torch
    from transformers import AutoImageProcessor, BlipForConditionalGeneration

    model = BlipForConditionalGeneration.from_pretrained(blip).eval()
    processor = AutoImageProcessor.from_pretrained(blip)
    ids = {word: place for place, word in enumerate(WORDS)}
    prompt = [ids[word] for word in options.get("prompt", "").split()]
    found = captions(blip, pictures[:4], max_new_tokens=6, **options)
    ended = 0
    for picture, given in zip(pictures[:4], found, strict=True):
        assert len(given) == options.get("num_captions", 1)
        assert [caption.score for caption in given] == sorted((c.score or 0 for c in given), reverse=True)
        for caption in given:
            tokens = [ids[word] for word in caption.text.split()]
            if len(tokens) < 6:  # ended by itself
                tokens, ended = [*tokens, ids["[SEP]"]], ended + 1
            sequence = torch.tensor([[2, *prompt, *tokens]])
            with torch.no_grad():
                states = model.vision_model(**processor(images=picture, return_tensors="pt"))[0]
                logits = model.text_decoder(input_ids=sequence, encoder_hidden_states=states).logits
            log_probabilities = logits[0, len(prompt) : -1].log_softmax(-1)
            own = log_probabilities[range(len(tokens)), tokens]
            assert caption.score == pytest.approx(float(own.mean().exp()), abs=2e-4)
    assert found == captions(blip, pictures[:4], max_new_tokens=6, **options)


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 1}, {"num_beams": 4, "num_captions": 3}, {"decoding": "nucleus", "num_captions": 2}],
    ids=str,
)
@pytest.mark.parametrize("prompt", [None, "a picture of"])
@pytest.mark.parametrize("name", ["blip_2", "git"])
def test_other_captioners_are_scored_alike(
    name: str, prompt: str | None, options: dict[str, Any], request: pytest.FixtureRequest, pictures: list[Image.Image]
) -> None:
    """Against one forward over picture, prompt and caption."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    folder = request.getfixturevalue(name)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    before = [2] if prompt is None else tokenizer(prompt)["input_ids"][: None if name == "blip_2" else -1]
    if name == "blip_2":
        before = [len(WORDS)] * 4 + before
    found = captions(folder, pictures[:4], max_new_tokens=6, prompt=prompt, **options)
    lengths = set()
    for picture, given in zip(pictures[:4], found, strict=True):
        assert len(given) == options.get("num_captions", 1)
        for caption in given:
            tokens = [WORDS.index(word) for word in caption.text.split()]
            lengths.add(len(tokens))
            if len(tokens) < 6:  # ended by itself
                tokens = [*tokens, 3]
            with torch.no_grad():
                logits = model(
                    **processor(images=picture, return_tensors="pt"), input_ids=torch.tensor([[*before, *tokens]])
                ).logits[0, -len(tokens) - 1 : -1]
            own = logits.log_softmax(-1)[range(len(tokens)), tokens]
            assert caption.score == pytest.approx(float(own.mean().exp()), abs=2e-4)
    assert lengths != {0}


def test_sampling_draws_from_the_nucleus_as_the_model_weighs_it() -> None:
    import torch

    logits = torch.tensor([[0.4, 0.05, 0.3, 0.15, 0.1]]).log()
    pixels = torch.arange(4000, dtype=torch.float32).reshape(4000, 1, 1, 1)

    def shares(**options: Any) -> list[float]:
        drawn = Nucleus(pixels, 1, **{"top_p": 1.0, "temperature": 1.0, "seed": 1, "steps": 1, **options})(
            torch.zeros(4000, 1), logits.expand(4000, -1)
        )
        assert (drawn.isfinite().sum(dim=1) == 1).all()
        return (drawn.argmax(dim=1).bincount(minlength=5) / 4000).tolist()

    assert shares() == pytest.approx([0.4, 0.05, 0.3, 0.15, 0.1], abs=0.03)
    assert shares(top_p=0.75) == pytest.approx([0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85, 0], abs=0.03)
    assert shares(top_p=0.01) == [1, 0, 0, 0, 0]
    squares = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1]) ** 2
    assert shares(temperature=0.5) == pytest.approx((squares / squares.sum()).tolist(), abs=0.03)
    assert shares(seed=2) != shares()


def test_sampling_needs_no_double_precision_of_the_device() -> None:
    """mps has none: a tensor that says it is there, and refuses float64 as it does, gets the draws of the CPU."""
    import torch

    class OnMps(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            plain = [one.as_subclass(torch.Tensor) if isinstance(one, cls) else one for one in arguments]
            if function is torch.Tensor.device.__get__:
                return torch.device("mps")
            found = function(*plain, **(options or {}))
            if not isinstance(found, torch.Tensor):
                return found
            if function is torch.Tensor.cpu or (function is torch.Tensor.to and plain[1] == torch.device("cpu")):
                return found
            if found.dtype == torch.float64:
                raise TypeError("the MPS framework doesn't support float64")
            return found.as_subclass(cls)

    torch.manual_seed(0)
    pixels, logits = torch.randn(40, 3, 2, 2), torch.randn(40, 9)
    options = {"samples": 1, "top_p": 0.9, "temperature": 0.7, "seed": 1, "steps": 2}
    there, here = Nucleus(pixels.as_subclass(OnMps), **options), Nucleus(pixels, **options)  # type: ignore[arg-type]
    for _ in range(2):
        drawn = there(torch.zeros(40, 1), logits.as_subclass(OnMps))
        assert isinstance(drawn, OnMps)
        assert torch.equal(drawn.as_subclass(torch.Tensor), here(torch.zeros(40, 1), logits))


def test_samples_follow_the_seed_and_differ_among_themselves(blip: Path, pictures: list[Image.Image]) -> None:
    def sampled(**options: Any) -> list[list[Caption]]:
        return captions(blip, pictures[:4], decoding="nucleus", top_p=1.0, **options)

    four = sampled(num_captions=4)
    assert four == sampled(num_captions=4)
    assert four != sampled(num_captions=4, seed=2)
    assert any(len({caption.text for caption in given}) > 1 for given in four)
    assert [given[0] in of_four for [*given], of_four in zip(sampled(), four, strict=True)] == [True] * 4, "one of them"


def test_captions_longer_than_the_model_has_room_for_are_refused(blip: Path, pictures: list[Image.Image]) -> None:
    with pytest.raises(UserError, match=r"captions\.blip\.max_new_tokens.*room for 32"):
        captions(blip, pictures[:1], max_new_tokens=40)


def test_half_precision_runs(blip: Path, yolos: Path, pictures: list[Image.Image]) -> None:
    assert all(captions(blip, pictures, dtype="bfloat16"))
    assert len(tags(yolos, pictures, dtype="bfloat16")) == 16


def test_a_missing_or_wrong_checkpoint_is_one_message(
    blip: Path, yolos: Path, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    with pytest.raises(UserError, match="no such folder"):
        choose("captions", {"extractor": "blip", "blip": {"model": "checkpoints/not/here"}}).require()
    with pytest.raises(UserError, match="no such folder"):
        make(("captions", {"extractor": "blip", "blip": {"model": "checkpoints/not/here"}})).fingerprint()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for kind, name in (("captions", "blip"), ("objects", "transformers")):
        with pytest.raises(UserError, match="checkpoint"):
            ready((kind, {"extractor": name, name: {"model": str(tmp_path)}})).extract(pictures[:1])
    with pytest.raises(UserError, match="checkpoint"):
        captions(yolos, pictures[:1])
    with pytest.raises(UserError, match=r"execution\.device"):
        ready(("captions", {"extractor": "blip", "blip": {"model": str(blip)}}), ExecutionParams(device="cuda:7"))


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
        ("yolos", "objects", "transformers", {}, "class_labels_classifier.", "YolosForObjectDetection"),
        ("rt_detr", "objects", "transformers", {}, "class_embed.", "RTDetrForObjectDetection"),
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


LABELS = ["dog", "red ball", "cat"]


def found_by_labels(folder: Path, pictures: list[Image.Image], **options: Any) -> list[list[Any]]:
    section = {"extractor": "zero_shot", "zero_shot": {"model": str(folder), "labels": LABELS, **options}}
    return [list(found) for found in ready(("objects", section)).extract(pictures)]


@pytest.mark.parametrize(
    ("labels", "label_of"),
    [
        (["dog", "red ball", "cat"], [None, "dog", None, "red ball", "red ball", None, "cat", None, None]),
        (["dog", "red", "cat"], [None, "dog", None, "red", None, "cat", None, None]),
    ],
)
def test_grounding_dinos_tags_are_those_of_transformers(
    labels: list[str], label_of: list[str | None], grounding_dino: Path, pictures: list[Image.Image]
) -> None:
    """Boxes and the labels' own sub-tokens, against the model's forward on the text as one string."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

    processor = AutoImageProcessor.from_pretrained(grounding_dino)
    tokenizer = AutoTokenizer.from_pretrained(grounding_dino)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(grounding_dino).eval()
    text = tokenizer(". ".join(labels) + ".", return_tensors="pt")
    labels_seen = set()
    everything = found_by_labels(grounding_dino, pictures[:4], labels=labels, threshold=0.3)
    for picture, found in zip(pictures[:4], everything, strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"), **text)
        expected = []
        for logits, (x, y, width, height) in zip(outputs.logits[0].sigmoid(), outputs.pred_boxes[0], strict=True):
            score, label = max((float(logits[at]), label) for at, label in enumerate(label_of) if label)
            if score > 0.3:
                corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                expected.append(
                    (
                        score,
                        label,
                        [
                            max(0.0, min(float(one), 1.0)) * side
                            for one, side in zip(corners, picture.size * 2, strict=True)
                        ],
                    )
                )
        expected.sort(reverse=True)
        assert len(found) == len(expected) > 0
        for tag, (score, label, box) in zip(found, expected, strict=True):
            assert (tag.label, tag.score) == (label, pytest.approx(score, abs=2e-4))
            assert tag.box == pytest.approx(box, abs=0.11)
        labels_seen |= {tag.label for tag in found}
    assert labels_seen == ({"red ball"} if "red ball" in labels else {"red", "cat"}), "the model is not trained"


def test_owls_tags_are_those_of_transformers(owlv2: Path, pictures: list[Image.Image]) -> None:
    """The labels encoded once for all give what the model's forward gives, which encodes them for every picture."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer

    processor = AutoImageProcessor.from_pretrained(owlv2)
    text = AutoTokenizer.from_pretrained(owlv2)(
        [f"a photo of a {label}" for label in LABELS], padding="max_length", max_length=16, return_tensors="pt"
    )
    text.pop("token_type_ids", None)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(owlv2).eval()
    labels_seen = set()
    for picture, found in zip(pictures[:4], found_by_labels(owlv2, pictures[:4], threshold=0.3), strict=True):
        with torch.no_grad():
            outputs = model(**processor(images=picture, return_tensors="pt"), **text)
        expected = processor.post_process_object_detection(outputs, 0.3, [(picture.height, picture.width)])[0]
        order = expected["scores"].argsort(descending=True).tolist()
        assert len(found) == len(order) > 0
        assert [tag.score for tag in found] == pytest.approx(expected["scores"][order].tolist(), abs=2e-4)
        limits = torch.tensor([picture.width, picture.height] * 2)
        for tag, at in zip(found, order, strict=True):
            assert tag.label == LABELS[int(expected["labels"][at])]
            box = torch.minimum(expected["boxes"][at].clamp(min=0), limits)
            assert tag.box == pytest.approx(box.tolist(), abs=0.11)
        labels_seen |= {tag.label for tag in found}
    assert len(labels_seen) > 1


def test_zero_shots_mistakes_are_named(
    grounding_dino: Path, owlv2: Path, yolos: Path, pictures: list[Image.Image]
) -> None:
    with pytest.raises(UserError, match=r"35 sub-tokens.*takes 32; the first 8 labels fit"):
        found_by_labels(grounding_dino, pictures[:1], labels=["red dog runs"] * 4 + ["red dog"] * 5 + ["cat"])
    with pytest.raises(UserError, match=r"red red.* is \d+ sub-tokens, longer than the 16"):
        found_by_labels(owlv2, pictures[:1], labels=["dog", "red " * 14])
    with pytest.raises(UserError, match=r"model_type is yolos; objects\.zero_shot takes grounding-dino"):
        found_by_labels(yolos, pictures[:1])
    for bad in ([], ["a dog. a cat"], [" "]):
        with pytest.raises(UserError, match=r"objects\.zero_shot\.labels"):
            found_by_labels(owlv2, pictures[:1], labels=bad)
    with pytest.raises(UserError, match=r"template: .*expected a text with \{\} in it once"):
        found_by_labels(owlv2, pictures[:1], template="a photo")
