"""Captions from BLIP, BLIP-2 and GIT through transformers, by beams or by nucleus sampling.

Finding the weights is left to :mod:`pipeline.core.checkpoints`.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.records import Caption
from pipeline.extractors import _generation, _torch
from pipeline.extractors.base import Options
from pipeline.settings.params import ExecutionParams

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""

_FAMILIES = ("blip", "blip-2", "git")
_SAMPLING = {"decoding", "top_p", "temperature", "seed"}


class BlipOptions(Options):
    """``captions.blip`` in params.yaml."""

    model: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    num_captions: PositiveInt = 1
    decoding: Literal["beams", "nucleus"] = "beams"
    num_beams: PositiveInt = 3
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    temperature: PositiveFloat = 1.0
    seed: NonNegativeInt = 0
    max_new_tokens: PositiveInt = 20
    dtype: _torch.Dtype = "float32"

    @model_validator(mode="after")
    def _enough_beams(self) -> "BlipOptions":
        if self.decoding == "beams" and self.num_beams < self.num_captions:
            raise ValueError(f"num_beams: {self.num_beams} beams cannot give num_captions = {self.num_captions}")
        return self

    def require(self) -> None:
        """Check that the checkpoint is there."""
        checkpoints.require(self.model, self.revision)


class Blip(_torch.FromCheckpoint):
    """`num_captions` captions per picture, best first.

    A caption's score is the geometric mean of its tokens' probabilities, ``exp(mean log p)``, the end included: what
    beam search with length penalty 1 ranks by. A prompt is not part of the caption that continues it.

    By nucleus sampling (Holtzman et al., 2020), each token is drawn from the fewest that `top_p` of the probability
    falls to, after `temperature`. What is drawn depends on `seed` and the picture, not on what else is in the batch.
    """

    Options = BlipOptions

    def __init__(self, options: BlipOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options of the decoding in use, image processor and version."""
        unread = _SAMPLING if self._options.decoding == "beams" else {"num_beams"}
        return {
            "extractor": "captions.blip",
            "version": VERSION,
            "checkpoint": self._checkpoint.identity,
            "processor": _torch.BACKEND,
            **self._options.model_dump(exclude={"model", "revision", *unread}),
        }

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """Resize and normalise one picture, *Shape:* (channels, height, width)."""
        pixels: torch.Tensor = self._processor(images=image, return_tensors="pt", input_data_format="channels_last")[
            "pixel_values"
        ][0]
        return pixels

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        """Captions of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: "Sequence[torch.Tensor]") -> list[list[Caption]]:
        """Captions of each picture."""
        return _torch.in_batches_of_one_shape(prepared, self._generate, self._device, self._options.dtype)

    def _generate(self, pixels: "torch.Tensor", _places: list[int]) -> list[list[Caption]]:
        """Captions of a stack of pictures on the model's device, *Shape:* (batch, channels, height, width)."""
        import torch

        options, k, batch = self._options, self._options.num_captions, len(pixels)
        prompt = {} if self._prompt is None else {"input_ids": self._prompt.repeat(batch, 1)}
        if options.decoding == "beams":
            decoding: dict[str, Any] = {"do_sample": False, "num_beams": options.num_beams, "length_penalty": 1.0}
        else:
            nucleus = Nucleus(pixels, k, options.top_p, options.temperature, options.seed, options.max_new_tokens)
            decoding = {
                "do_sample": True,
                "num_beams": 1,
                "top_k": 0,
                "top_p": 1.0,
                "temperature": 1.0,
                "logits_processor": [nucleus],
            }
        with torch.inference_mode():
            output = self._model.generate(
                pixel_values=pixels,
                **prompt,
                **decoding,
                num_return_sequences=k,
                max_new_tokens=options.max_new_tokens,
                output_scores=self._beams,
                output_logits=not self._beams,
                return_dict_in_generate=True,
            )
        new = output.sequences[:, self._start :].cpu()
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        scores = self._log_probabilities(output, new)
        captions = [Caption(text.strip(), round(math.exp(score), 4)) for text, score in zip(texts, scores, strict=True)]
        groups = [captions[index * k : (index + 1) * k] for index in range(batch)]
        return [sorted(group, key=lambda caption: -(caption.score or 0.0)) for group in groups]

    def _log_probabilities(self, output: Any, new: "torch.Tensor") -> list[float]:
        """Mean log probability of each caption's tokens.

        Args:
            output: what ``generate()`` returned.
            new: ids of the generated tokens, *Shape:* (captions, length).
        """
        import torch

        if self._beams:
            means: list[float] = output.sequences_scores.float().cpu().tolist()
            return means
        logits = torch.stack([step.float().cpu() for step in output.logits], dim=1)
        tokens = logits.log_softmax(dim=-1).gather(-1, new[..., None])[..., 0]
        return _generation.mean_log_probabilities(tokens, new, self._ends)

    @property
    def _beams(self) -> bool:
        """Whether several sequences compete."""
        return self._options.decoding == "beams" and self._options.num_beams > 1

    def load(self) -> None:
        """Load image processor, tokenizer and model, and encode the prompt.

        Raises:
            UserError: the checkpoint is not available or is of another kind of model, or has no room for the caption.
        """
        super().load()
        from transformers import AutoConfig, AutoModelForImageTextToText

        self._config = self._loaded(AutoConfig, "configuration")
        if self._family not in _FAMILIES:
            raise UserError(
                f"checkpoint {self._options.model}: its model_type is {self._family}; captions.blip "
                f"takes {', '.join(_FAMILIES)}"
            )
        self._tokenizer = _torch.tokenizer(self._checkpoint.folder, str(self._options.model))
        self._model = _torch.load(
            AutoModelForImageTextToText, self._checkpoint.folder, self._options.model, self._options.dtype, self._device
        )
        self._prompt = self._encoded_prompt()
        self._start = self._caption_start()
        self._ends = self._closing_tokens()
        text_config = getattr(self._config, "text_config", self._config)
        room = getattr(text_config, "max_position_embeddings", None)
        needed = self._start + self._options.max_new_tokens
        if room is not None and needed > room:
            raise UserError(
                f"captions.blip.max_new_tokens: with the prompt, {needed} tokens may come of "
                f"{self._options.max_new_tokens}; {self._options.model} has room for {room}"
            )

    @property
    def _family(self) -> str:
        return str(self._config.model_type)

    def _encoded_prompt(self) -> "torch.Tensor | None":
        """The prompt's token ids, *Shape:* (1, length); None where the model begins by itself.

        BLIP's stand between [CLS] and [SEP], which generate() drops; BLIP-2's behind the places of the picture, GIT's
        behind [CLS].
        """
        import torch

        text, tokenizer = self._options.prompt, self._tokenizer
        if text is None:
            return None
        ids = tokenizer(text, add_special_tokens=self._family != "git")["input_ids"]
        if self._family == "git":
            ids = [tokenizer.cls_token_id, *ids]
        elif self._family == "blip-2":
            ids = [self._config.image_token_index] * self._config.num_query_tokens + ids
        return torch.tensor([ids], device=self._device)

    def _caption_start(self) -> int:
        """How many tokens of what ``generate()`` returns come before the caption."""
        config = self._config
        if self._family == "blip-2":
            if config.text_config.is_encoder_decoder:
                return 1
            return config.num_query_tokens + 1 if self._prompt is None else self._prompt.shape[1]
        return 1 if self._prompt is None else self._prompt.shape[1] - (self._family == "blip")

    def _closing_tokens(self) -> list[int]:
        """The tokens that close a caption."""
        if self._family == "blip":
            return [self._config.text_config.sep_token_id]
        return _generation.ends_of(self._model.language_model if self._family == "blip-2" else self._model)


class Nucleus:
    """Draws a token for each sequence, and leaves the others no probability; a logits processor of transformers.

    Numbers are drawn for each picture and caption from a generator of its own, seeded with the picture's pixels. They
    and the sums that they are held against are float64, which mps lacks: there the CPU draws.
    """

    def __init__(
        self, pixels: "torch.Tensor", samples: int, top_p: float, temperature: float, seed: int, steps: int
    ) -> None:
        import torch

        self._top_p, self._temperature = top_p, temperature
        self._step = 0
        rows = []
        for picture in pixels.float().cpu():
            digest = hashlib.sha256(picture.numpy().tobytes())
            for sample in range(samples):
                own = digest.copy()
                own.update(f"{seed} {sample}".encode())
                generator = torch.Generator().manual_seed(int.from_bytes(own.digest()[:8], "big", signed=True))
                rows.append(torch.rand(steps, generator=generator, dtype=torch.float64))
        self._device = torch.device("cpu") if pixels.device.type == "mps" else pixels.device
        self._numbers = torch.stack(rows).to(self._device)  # (sequences, steps)

    def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Draw one token per sequence, by inversion of the distribution over the nucleus, likeliest first.

        Args:
            input_ids: tokens so far, *Shape:* (sequences, length).
            scores: logits of the next token, *Shape:* (sequences, vocabulary).

        Returns:
            0 for the drawn token and minus infinity for all others, *Shape:* (sequences, vocabulary).
        """
        import torch

        logits = scores.to(self._device).double()
        likeliest, tokens = (logits / self._temperature).softmax(dim=-1).sort(dim=-1, descending=True)
        before = likeliest.cumsum(dim=-1) - likeliest
        likeliest = likeliest.masked_fill(before >= self._top_p, 0.0)  # the first is always in
        reached = likeliest.cumsum(dim=-1)
        drawn = self._numbers[:, self._step, None] * reached[:, -1:]
        rank = (reached <= drawn).sum(dim=-1, keepdim=True)
        self._step += 1
        return torch.full_like(logits, -math.inf).scatter(-1, tokens.gather(-1, rank), 0.0).to(scores)
