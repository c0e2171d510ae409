"""What the captioners give: scores that the model itself gives, and samples that follow the seed."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.core.errors import UserError
from pipeline.core.records import Caption
from pipeline.extractors.blip import Nucleus
from tests.pipeline.extractors.cases import WORDS, captions


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
