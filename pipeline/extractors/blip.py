"""Captions from BLIP (transformers' BlipForConditionalGeneration), by beams.

Where the weights are is pipeline/checkpoints.py's business, which pictures to read the engine's.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image
from pydantic import Field, PositiveInt, model_validator

from pipeline import checkpoints
from pipeline.contexts import Caption
from pipeline.errors import UserError
from pipeline.extractors import Options, _torch
from pipeline.params import ExecutionParams

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""


class BlipOptions(Options):
    """``captions.blip`` in params.yaml."""

    model: Annotated[str, Field(min_length=1)]
    revision: str | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    num_captions: PositiveInt = 1
    num_beams: PositiveInt = 3
    max_new_tokens: PositiveInt = 20
    dtype: _torch.Dtype = "float32"

    @model_validator(mode="after")
    def _enough_beams(self) -> "BlipOptions":
        if self.num_beams < self.num_captions:
            raise ValueError(f"num_beams: {self.num_beams} beams cannot give num_captions = {self.num_captions}")
        return self

    def require(self) -> None:
        """Check that the checkpoint is there."""
        checkpoints.require(self.model, self.revision)


class Blip:
    """`num_captions` captions a picture, best first.

    A caption's score is the geometric mean of its tokens' probabilities, ``exp(mean log p)``, the end included: what
    beam search with length penalty 1 ranks by. A prompt is not part of the caption that continues it.
    """

    Options = BlipOptions

    def __init__(self, options: BlipOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, options, image processor and version."""
        return {"extractor": "captions.blip", "version": VERSION, "checkpoint": self._checkpoint.identity,
                "processor": _torch.BACKEND, **self._options.model_dump(exclude={"model", "revision"})}

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """Resize and normalise one picture: a tensor of shape ``(channels, height, width)``."""
        pixels: torch.Tensor = self._processor(
            images=image, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]
        return pixels

    def extract(self, images: Sequence[Image.Image]) -> list[list[Caption]]:
        """Captions of each picture."""
        return self.extract_prepared([self.prepare(image) for image in images])

    def extract_prepared(self, prepared: "Sequence[torch.Tensor]") -> list[list[Caption]]:
        """Captions of each picture."""
        return _torch.in_batches_of_one_shape(prepared, self._generate, self._device, self._options.dtype)

    def _generate(self, pixels: "torch.Tensor", _places: list[int]) -> list[list[Caption]]:
        import torch

        options, batch = self._options, len(pixels)
        prompt = {} if self._prompt is None else {"input_ids": self._prompt.repeat(batch, 1)}
        with torch.inference_mode():
            output = self._model.generate(
                pixel_values=pixels, **prompt, do_sample=False, num_beams=options.num_beams,
                num_return_sequences=options.num_captions, max_new_tokens=options.max_new_tokens, length_penalty=1.0,
                output_scores=True, return_dict_in_generate=True)
        # generate() drops the prompt's closing [SEP]; without a prompt it starts from the one token [BOS].
        start = 1 if self._prompt is None else self._prompt.shape[1] - 1
        texts = self._tokenizer.batch_decode(output.sequences[:, start:].cpu(), skip_special_tokens=True)
        scores = self._log_probabilities(output, start)
        captions = [Caption(text.strip(), round(math.exp(score), 4)) for text, score in zip(texts, scores, strict=True)]
        k = options.num_captions
        return [captions[index * k:(index + 1) * k] for index in range(batch)]

    def _log_probabilities(self, output: Any, start: int) -> list[float]:
        """Mean log probability of each sequence's new tokens."""
        if self._options.num_beams > 1:
            means: list[float] = output.sequences_scores.float().cpu().tolist()
            return means
        tokens = self._model.text_decoder.compute_transition_scores(output.sequences, output.scores,
                                                                    normalize_logits=True).float().cpu()
        # From the closing token on there is padding, which is no part of the caption.
        ended = (output.sequences[:, start:].cpu() == self._model.config.text_config.sep_token_id).long()
        counted = ended.cumsum(dim=1) - ended == 0
        return [float(row[mask].mean()) for row, mask in zip(tokens, counted, strict=True)]

    @cached_property
    def _checkpoint(self) -> checkpoints.Checkpoint:
        return checkpoints.resolve(self._options.model, self._options.revision)

    @cached_property
    def _device(self) -> "torch.device":
        return _torch.device(self._device_name)

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoImageProcessor

        return self._loaded(AutoImageProcessor, "image processor", backend=_torch.BACKEND)

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return self._loaded(AutoTokenizer, "tokenizer")

    def _loaded(self, loader: Any, what: str, **options: Any) -> Any:
        _torch.quiet()
        try:
            return loader.from_pretrained(self._checkpoint.folder, **options)
        except (OSError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"checkpoint {self._options.model}: no {what}: {first}") from None

    @cached_property
    def _prompt(self) -> "torch.Tensor | None":
        """The prompt's token ids, of shape ``(1, length)``, between [CLS] and [SEP]."""
        if self._options.prompt is None:
            return None
        ids: torch.Tensor = self._tokenizer(self._options.prompt, return_tensors="pt")["input_ids"].to(self._device)
        return ids

    @cached_property
    def _model(self) -> Any:
        from transformers import BlipForConditionalGeneration

        model = _torch.load(BlipForConditionalGeneration, self._checkpoint.folder, self._options.model,
                            self._options.dtype, self._device)
        room = model.config.text_config.max_position_embeddings
        needed = (1 if self._prompt is None else self._prompt.shape[1] - 1) + self._options.max_new_tokens
        if needed > room:
            raise UserError(f"captions.blip.max_new_tokens: with the prompt, {needed} tokens may come of "
                            f"{self._options.max_new_tokens}; {self._options.model} has room for {room}")
        return model
