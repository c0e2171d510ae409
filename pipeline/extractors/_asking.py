"""A vision-language model in this process: asking it about pictures, through transformers.

What it is asked and how its answer is read is left to :mod:`pipeline.extractors.vlm`. Only processors of transformers
itself are used. Those that read videos too want torchvision, which the core does without: they run in the separate
environment `vlm`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from PIL import Image
from pydantic import AfterValidator, Field, JsonValue, PositiveInt

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.soundness import explained, require_words
from pipeline.extractors import _generation, _said, _torch
from pipeline.extractors.base import Options

if TYPE_CHECKING:
    import torch

ENVIRONMENT = "vlm"

_TAIL = 12  # tokens of a question in which the word that begins thinking is looked for
_TURN_ENDS = (
    "<|im_end|>",
    "<end_of_turn>",
    "<|eot_id|>",
    "<end_of_utterance>",
)  # of chats; not every checkpoint says so
_OWN = {"messages", "add_generation_prompt", "tools", "documents"}


def _template(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if taken := sorted(_OWN & value.keys()):
        raise ValueError(f"{', '.join(taken)}: set by the extractor; expected other variables of the chat template")
    return value


class AskingOptions(Options):
    """What is said of every such model."""

    NO_FILES: ClassVar[frozenset[str]] = frozenset({"prompt", "template", "environment"})

    model: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    prompt: Annotated[str, Field(min_length=1)] | None
    template: Annotated[dict[str, JsonValue], AfterValidator(_template)] = Field(default={})
    max_side: Annotated[int, Field(ge=16, le=8192)] | None = 1024
    max_new_tokens: PositiveInt = 64
    dtype: _torch.Dtype = "float32"
    environment: Literal["vlm"] | None = None

    @property
    def interpreter(self) -> str | None:
        """The separate environment that the model is to run in."""
        return self.environment

    def require(self) -> None:
        """Check that the checkpoint is there."""
        checkpoints.require(self.model, self.revision)


class Question(NamedTuple):
    """What is asked about pictures; where the prompt is None, what the model's processor asks by itself."""

    prompt: str | None
    images: Sequence[Image.Image]


class Answer(NamedTuple):
    """What the model said, and the geometric mean of its tokens' probabilities, the end included."""

    text: str
    score: float


class Asking:
    """Asks the model, greedily: of all tokens the likeliest, whatever else the checkpoint's generation config says.

    Args:
        section: of params, for messages.
        options: the model's.
        device: as ``execution.device`` names it.
    """

    def __init__(self, section: str, options: AskingOptions, device: str) -> None:
        self._section, self._options, self._device_name = section, options, device

    @cached_property
    def _checkpoint(self) -> checkpoints.Checkpoint:
        return checkpoints.resolve(self._options.model, self._options.revision)

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options and image processor. Where the model runs does not change what it says."""
        return {
            "checkpoint": self._checkpoint.identity,
            "processor": _torch.BACKEND,
            **self._options.model_dump(exclude={"model", "revision", "environment"}),
        }

    def load(self, sample: Question) -> None:
        """Load processor and model.

        Args:
            sample: a question like those to come; it is put to the processor, so that a mistake shows here.

        Raises:
            UserError: the checkpoint is not available or not whole, its model is of another kind, or its processor
                wants torchvision or makes no input of such a question.
        """
        from transformers import AutoConfig, AutoModelForImageTextToText

        options, folder = self._options, self._checkpoint.folder
        self._device = _torch.device(self._device_name)
        config = _torch.part(AutoConfig, "configuration", folder, options.model)
        if config.is_encoder_decoder:
            raise UserError(
                f"checkpoint {options.model}: a {config.model_type}, whose encoder reads the prompt; {self._section} "
                "takes models that go on with it"
            )
        self._processor = self._whole_processor()
        self._require_template_uses(options.template)
        shown = {0: "", 1: " and a picture"}.get(len(sample.images), f" and {len(sample.images)} pictures")
        with explained(f"checkpoint {options.model}: its processor makes no input of {self._section}.prompt{shown}"):
            tokens = self._inputs([sample])["input_ids"][0]
        self._thinking = self._processor.tokenizer.decode(tokens[-_TAIL:]).rstrip().endswith("<think>")
        self._model = _torch.load(AutoModelForImageTextToText, folder, options.model, options.dtype, self._device)
        generation, vocabulary = self._model.generation_config, self._processor.tokenizer.get_vocab()
        turn_ends = {vocabulary[word] for word in _TURN_ENDS if word in vocabulary}
        self._ends = generation.eos_token_id = sorted({*_generation.ends_of(self._model), *turn_ends})
        if generation.pad_token_id is None:
            generation.pad_token_id = self._processor.tokenizer.pad_token_id

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The answer to each question: empty where the model says nothing, or does not come to an end with thinking.

        Raises:
            ValueError: the model gave numbers that are not finite.
        """
        groups: dict[int, list[int]] = {}
        for place, question in enumerate(questions):
            groups.setdefault(len(question.images), []).append(place)
        answers: dict[int, Answer] = {}
        for places in groups.values():
            found = self._generate(self._inputs([questions[place] for place in places]))
            answers.update(zip(places, found, strict=True))
        return [answers[place] for place in range(len(questions))]

    def harmless(self, text: str) -> str:
        """A text of somebody else's, without what the model takes for a sign of its own: ``<image>`` has a space in it.

        Called after :meth:`load`.
        """
        for sign in self._signs:
            text = text.replace(sign, f"{sign[0]} {sign[1:]}")
        return text

    @cached_property
    def _signs(self) -> list[str]:
        """The tokenizer's special tokens, and others that look like one, the longest first."""
        tokens = self._processor.tokenizer.added_tokens_decoder.values()
        signs = {token.content for token in tokens if token.special or token.content[:1] in ("<", "[")}
        return sorted((sign for sign in signs if len(sign) > 1), key=lambda sign: (-len(sign), sign))

    def _generate(self, inputs: "Mapping[str, torch.Tensor]") -> list[Answer]:
        """Answers to a batch of questions, as the processor gives it.

        Raises:
            UserError: the model is of a kind that does not go on with the question, so there is no telling where the
                answer begins.
        """
        import torch

        likelihoods, dtype = _generation.Likelihoods(), getattr(torch, self._options.dtype)
        with torch.inference_mode():
            output = self._model.generate(
                **{
                    name: values.to(self._device, dtype if values.is_floating_point() else None)
                    for name, values in inputs.items()
                },
                max_new_tokens=self._options.max_new_tokens,
                do_sample=False,
                num_beams=1,
                logits_processor=[likelihoods],
            )
        asked = inputs["input_ids"]
        if not torch.equal(output[:, : asked.shape[1]].cpu(), asked):
            raise UserError(
                f"checkpoint {self._options.model}: a {self._model.config.model_type}, which does not go on with what "
                f"it is asked; {self._section} takes models that do, captions.blip BLIP, BLIP-2 and GIT"
            )
        new = output[:, asked.shape[1] :].cpu()
        means = likelihoods.means(new, self._ends)
        if not all(map(math.isfinite, means)):
            raise ValueError("the model gave numbers that are not finite")
        texts = self._processor.batch_decode(new, skip_special_tokens=True)
        return [Answer(self._said(text), round(math.exp(mean), 4)) for text, mean in zip(texts, means, strict=True)]

    def _said(self, text: str) -> str:
        return "" if self._thinking and _said.THOUGHT not in text else _said.concluded(text)

    def _inputs(self, questions: Sequence[Question]) -> "dict[str, torch.Tensor]":
        """What the model reads of questions with as many pictures each, padded in front."""
        import torch

        padding = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        if self._processor.chat_template is None:
            prompts = [question.prompt for question in questions]
            inputs = self._processor(
                images=[image for question in questions for image in question.images],
                text=None if None in prompts else prompts,
                **padding,
            )
        else:
            inputs = self._processor.apply_chat_template(
                [[{"role": "user", "content": _content(question)}] for question in questions],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                processor_kwargs=padding,
                **self._options.template,
            )
        # SmolVLM's are lists and arrays, whatever is asked for; PaliGemma's labels are for training.
        return {name: torch.as_tensor(values) for name, values in inputs.items() if name != "labels"}

    def _whole_processor(self) -> Any:
        """What makes the model's input of pictures and text. Its pixels are the same with torchvision and without.

        Raises:
            UserError: the checkpoint has none, or it wants torchvision.
        """
        from transformers import AutoProcessor, ProcessorMixin

        folder, name = self._checkpoint.folder, self._options.model
        _torch.quiet()
        with explained(f"checkpoint {name}: no processor"):
            try:
                processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            except Exception as error:  # an ImportError, or another that says so
                if find_spec("torchvision") is not None or "torchvision" not in str(error).lower():
                    raise
                raise UserError(
                    f"checkpoint {name}: its processor wants torchvision, which the core does without; set "
                    f"{self._section}.environment: {ENVIRONMENT} in params.yaml, and build that once: python -m "
                    f"pipeline.environments sync {ENVIRONMENT}"
                ) from None
        if not isinstance(processor, ProcessorMixin):
            raise UserError(
                f"checkpoint {name}: no processor of pictures and text together, only a {type(processor).__name__}; "
                f"{self._section} needs a vision-language model"
            )
        processor.image_processor = _torch.image_processor(folder, name)
        tokenizer = processor.tokenizer
        require_words(tokenizer, name)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return processor

    def _require_template_uses(self, names: Mapping[str, JsonValue]) -> None:
        """See that the chat template reads the variables that params give it.

        Raises:
            UserError: there is no chat template, or it does not name one of them.
        """
        template = str(self._processor.chat_template or "")
        for name in names:
            if name not in template:
                raise UserError(
                    f"{self._section}.template.{name}: the chat template of {self._options.model} "
                    f"{'uses no such variable' if template else 'is missing, so nothing reads it'}; leave it out"
                )


def _content(question: Question) -> list[dict[str, Any]]:
    pictures: list[dict[str, Any]] = [{"type": "image", "image": image} for image in question.images]
    return pictures if question.prompt is None else [*pictures, {"type": "text", "text": question.prompt}]
