"""Vision-language models in this process: what they are asked, what becomes of their answers, which run where."""

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
from pipeline.extractors import _said
from pipeline.extractors._asking import Asking, Question
from pipeline.extractors.registry import choose
from pipeline.images.listing import list_pictures
from pipeline.images.manifest import manifest
from pipeline.settings.params import ImagesParams
from tests.conftest import ROOT
from tests.pipeline.extractors import vlms
from tests.pipeline.extractors.cases import make, ready, rows_of, same


def section(folder: Path, **options: Any) -> dict[str, Any]:
    options = {"model": str(folder), "prompt": "a picture of", "max_new_tokens": 5, **options}
    return {"extractor": "vlm", "vlm": options}


def captioner(folder: Path, **options: Any) -> Any:
    return ready(("captions", section(folder, **options)))


def edited(folder: Path, target: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint, one of whose JSON files has gone through `change`."""
    shutil.copytree(folder, target)
    content = json.loads((target / file).read_text())
    change(content)
    (target / file).write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    "family", [pytest.param(each, marks=() if each == "llava" else pytest.mark.slow) for each in sorted(vlms.CORE)]
)
def test_every_family_of_the_page_answers_alike_alone_and_padded(
    family: str, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    folder = vlms.write_vlm(family, tmp_path / family)
    extractor = captioner(folder, prompt=None if family == "got_ocr2" else "a picture of")  # whose processor asks
    some = pictures[:6]
    together = extractor.extract(some)
    assert same(together, [extractor.extract([picture])[0] for picture in some])
    assert len({str(captions) for captions in together}) > 3, "pictures are told apart"


def test_a_captions_score_is_the_geometric_mean_of_its_tokens(llava: Path, pictures: list[Image.Image]) -> None:
    """Against the probabilities that the model gives question and answer in one pass."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(llava).eval()
    processor = AutoProcessor.from_pretrained(llava)
    banned = model.generation_config.suppress_tokens
    ended = 0
    for picture, [caption] in zip(pictures[:6], captioner(llava).extract(pictures[:6]), strict=True):
        asked = processor(images=picture, text="user <image> a picture of assistant", return_tensors="pt")
        tokens = processor.tokenizer(caption.text, add_special_tokens=False)["input_ids"]
        if len(tokens) < 5:  # ended by itself
            tokens, ended = [*tokens, processor.tokenizer.eos_token_id], ended + 1
        asked["input_ids"] = torch.cat([asked["input_ids"], torch.tensor([tokens])], dim=1)
        asked["attention_mask"] = torch.ones_like(asked["input_ids"])
        with torch.no_grad():
            logits = model(**asked).logits[0, -len(tokens) - 1 : -1]
        logits[:, banned] = -torch.inf
        logits[0, processor.tokenizer.eos_token_id] = -torch.inf  # as its generation config says
        own = logits.log_softmax(-1)[range(len(tokens)), tokens]
        assert caption.score == pytest.approx(float(own.mean().exp()), abs=2e-4)
    assert 0 < ended < 6


def test_it_is_greedy_whatever_the_checkpoint_says(llava: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    def sample(config: dict[str, Any]) -> None:
        config |= {"do_sample": True, "temperature": 5.0, "top_k": 20, "num_beams": 4}

    sampling = edited(llava, tmp_path / "sampling", "generation_config.json", sample)
    assert captioner(sampling).extract(pictures[:4]) == captioner(llava).extract(pictures[:4])


def test_the_answer_follows_prompt_and_template(llava: Path, pictures: list[Image.Image]) -> None:
    first = captioner(llava).extract(pictures[:4])
    assert captioner(llava, prompt="the dog runs").extract(pictures[:4]) != first
    assert captioner(llava, template={"thinking": False}).extract(pictures[:4]) == first


def test_pictures_are_shrunk_before_they_are_shown(idefics3: Path) -> None:
    large = Image.new("RGB", (3000, 1000))
    assert captioner(idefics3).prepare(large).question.images[0].size == (1024, 341)
    assert captioner(idefics3, max_side=None).prepare(large).question.images == [large]


def test_a_question_may_have_any_number_of_pictures(llava: Path, pictures: list[Image.Image]) -> None:
    model: Any = captioner(llava)._model
    questions = [Question("the dog", pictures[:count]) for count in (2, 0, 1, 2)]
    assert model.answer(questions) == [model.answer([question])[0] for question in questions]
    assert model.answer([]) == []


def test_an_answer_that_is_none_is_that_pictures_row_and_no_other_is_asked_for_twice(
    llava: Path, tmp_path: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hush(config: dict[str, Any]) -> None:
        """Of all words it may say one alone, or end at once."""
        end, *_ = config.pop("begin_suppress_tokens")
        config["suppress_tokens"] = [place for place in range(len(vlms.SPECIAL) + 15) if place not in (end, 12)]

    silent = edited(llava, tmp_path / "silent", "generation_config.json", hush)
    (tmp_path / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "pictures" / f"{number:02}.png")
    asked: list[int] = []
    generate = Asking._generate

    def counting(self: Asking, inputs: Any) -> Any:
        asked.append(len(inputs["input_ids"]))
        return generate(self, inputs)

    monkeypatch.setattr(Asking, "_generate", counting)
    rows = list(manifest(list_pictures(tmp_path / "pictures"), tmp_path / "pictures", ImagesParams()))
    with Store.open(tmp_path / "store") as store:
        extractor = make(("captions", section(silent)))
        summary = extract("captions", extractor, rows, tmp_path / "pictures", tmp_path / "out.jsonl", store, 8)
    assert asked == [8, 8]
    assert 0 < summary.failed < 16
    failures = [error for _, status, error, _ in rows_of("captions", tmp_path / "out.jsonl") if status != "ok"]
    assert len(failures) == summary.failed
    assert set(failures) == {"ValueError: an empty answer, or a model that thinks for longer than max_new_tokens: 5"}
    found = ready(("ocr", section(silent))).extract(pictures)
    assert sum(not lines for lines in found) == summary.failed, "a picture may have no text"


def test_an_answer_ends_where_the_models_turn_does(idefics3: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    """Also where the checkpoint's generation config knows another end alone."""
    sign = "<end_of_utterance>"
    tokens: Any = ready(("ocr", section(idefics3)))._model._processor.tokenizer  # type: ignore[attr-defined]

    def chat(config: dict[str, Any]) -> None:
        turn_end = tokens.convert_tokens_to_ids(sign)
        config["suppress_tokens"] = [place for place in range(len(tokens)) if place not in (turn_end, 5, 6)]

    extractor: Any = ready(("ocr", section(edited(idefics3, tmp_path / "chatty", "generation_config.json", chat))))
    model, went_on = extractor._model, 0
    for picture, lines in zip(pictures, extractor.extract(pictures), strict=True):
        inputs = model._inputs([Question("a picture of", [picture])])
        output = model._model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=tokens.eos_token_id)
        said = tokens.decode(output[0, inputs["input_ids"].shape[1] :])
        answer, _, more = said.partition(sign)
        assert [line.text for line in lines] == ([answer.strip()] if answer.strip() else [])
        went_on += bool(more.replace(sign, "").strip())
    assert went_on


def test_a_model_that_goes_on_thinking_has_not_answered(llava: Path, pictures: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="thinks for longer than max_new_tokens: 5"):
        captioner(llava, template={"thinking": True}).extract(pictures[:1])


@pytest.mark.parametrize(
    ("answer", "concluded"),
    [
        (" a dog \n", "a dog"),
        ("<think>what is it? a cat?</think>\n\na dog", "a dog"),
        ("what is it?</think>a dog", "a dog"),
        ("<think>what is it? a c", ""),
        ("<think>what is it?</think>", ""),
        ("", ""),
    ],
)
def test_what_is_thought_is_no_part_of_an_answer(answer: str, concluded: str) -> None:
    assert _said.concluded(answer) == concluded


def test_numbers_that_are_not_finite_are_no_answer(llava: Path, pictures: list[Image.Image]) -> None:
    extractor = captioner(llava)
    extractor._model._model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        extractor.extract(pictures[:1])


def test_what_a_model_cannot_be_asked_is_said_before_the_first_picture(
    llava: Path, florence2: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"captions\.vlm\.template\.enable_thinking: the chat template of .* uses no such variable"
    ):
        captioner(llava, template={"enable_thinking": False})
    with pytest.raises(UserError, match="messages: set by the extractor; expected other variables"):
        choose("captions", section(llava, template={"messages": []}))
    plain = vlms.write_vlm("paligemma", tmp_path / "paligemma")
    with pytest.raises(UserError, match=r"template\.thinking: the chat template of .* is missing"):
        captioner(plain, template={"thinking": False})
    with pytest.raises(UserError, match=r"its processor makes no input of captions\.vlm\.prompt and a picture"):
        captioner(plain, prompt=None)
    with pytest.raises(UserError, match=r"a florence2, whose encoder reads the prompt; captions\.vlm takes models"):
        captioner(florence2)
    with pytest.raises(UserError, match="no processor of pictures and text together, only a XLMRobertaTokenizer"):
        captioner(ROOT / "checkpoints" / "sample" / "xlm-r")


def test_a_model_that_does_not_go_on_with_the_question_is_refused(blip: Path, pictures: list[Image.Image]) -> None:
    """Of what it returns, one would otherwise take words of the question for the answer, or the other way round."""
    with pytest.raises(UserError, match=r"a blip, which does not go on with what it is asked; captions\.vlm takes"):
        captioner(blip).extract(pictures[:2])


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_that_wants_torchvision_is_said_to_run_elsewhere(idefics3: Path, tmp_path: Path) -> None:
    def with_videos(config: dict[str, Any]) -> None:
        config |= {
            "processor_class": "SmolVLMProcessor",
            "video_processor": {"video_processor_type": "SmolVLMVideoProcessor"},
        }

    films = edited(idefics3, tmp_path / "films", "processor_config.json", with_videos)
    with pytest.raises(
        UserError,
        match=r"wants torchvision, which the core does without; set ocr\.vlm\.environment: vlm in params\.yaml, and "
        r"build that once: python -m pipeline\.environments sync vlm",
    ):
        ready(("ocr", section(films)))


def test_the_environment_is_asked_for_by_an_option(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGHTREAD_VENVS", str(tmp_path))
    assert choose("captions", section(llava)).interpreter is None
    choice = choose("captions", section(llava, environment="vlm"))
    assert choice.interpreter == "vlm"
    with pytest.raises(UserError, match=r"vlm needs a separate environment, .* run: python -m pipeline\.environments"):
        choice.require()
