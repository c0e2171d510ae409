"""Captions from LAVIS' BLIP captioner, by beams or by nucleus sampling, in a separate environment (venv).

LAVIS downloads its checkpoint and its tokenizer by name and unpickles the former; here both are files that params name,
and none of their code is run.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from PIL import Image
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from pipeline.core import checkpoints, environments
from pipeline.core.errors import UserError
from pipeline.core.hashes import file_digest
from pipeline.core.records import Caption
from pipeline.core.weights import load_weights, weights_file
from pipeline.extractors import _torch
from pipeline.extractors.base import Options
from pipeline.extractors.blip import Nucleus
from pipeline.settings import yaml
from pipeline.settings.params import ExecutionParams

if TYPE_CHECKING:
    import torch

VERSION = 1
"""Raised when the same picture, weights and options would give another result."""

INTERPRETER = "lavis"

_URLS = {
    "base_coco": "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP/"
    "blip_coco_caption_base.pth",
    "large_coco": "https://storage.googleapis.com/sfr-vision-language-research/BLIP/models/model_large_caption.pth",
}
"""Where LAVIS' own configurations have their weights from."""


class LavisOptions(Options):
    """``captions.lavis`` in params.yaml."""

    name: Literal["blip_caption"] = "blip_caption"
    model_type: Literal["base_coco", "large_coco"] = "base_coco"
    config: str | None = None
    weights: Annotated[str, Field(min_length=1)]
    tokenizer: Annotated[str, Field(min_length=1)] = "google-bert/bert-base-uncased"
    num_captions: PositiveInt = 1
    decoding: Literal["beams", "nucleus"] = "beams"
    num_beams: PositiveInt = 3
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    seed: NonNegativeInt = 0
    max_length: PositiveInt = 30
    min_length: NonNegativeInt = 10
    dtype: _torch.Dtype = "float32"

    @model_validator(mode="after")
    def _possible(self) -> "LavisOptions":
        if self.decoding == "beams" and self.num_beams < self.num_captions:
            raise ValueError(f"num_beams: {self.num_beams} beams cannot give num_captions = {self.num_captions}")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length: {self.min_length} is more than max_length = {self.max_length}")
        return self

    def require(self) -> None:
        """Check that weights, vocabulary and configuration are there."""
        weights_file(
            self.weights,
            "lavis.weights",
            f"where there is internet: curl -L -o {self.weights} {_URLS[self.model_type]}",
        )
        self.vocabulary()
        if self.config is not None and not Path(self.config).expanduser().is_file():
            raise UserError(
                f"lavis.config: {self.config}: no such file; expected a model's YAML file as LAVIS has "
                "them, or null for that of model_type"
            )

    def vocabulary(self) -> Path:
        """The tokenizer's vocab.txt: in a local folder, or in the hub's cache, which is filled on first use.

        Raises:
            UserError: there is none.
        """
        folder = Path(self.tokenizer).expanduser()
        if folder.is_dir() or not checkpoints.is_hub_name(self.tokenizer):
            if not (folder / "vocab.txt").is_file():
                raise UserError(
                    f"lavis.tokenizer: {self.tokenizer}: no folder with a vocab.txt in it; expected that "
                    "of the BERT that the captioner was trained with"
                )
            return folder / "vocab.txt"
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        found = try_to_load_from_cache(self.tokenizer, "vocab.txt")
        try:
            return Path(found if isinstance(found, str) else hf_hub_download(self.tokenizer, "vocab.txt"))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise UserError(
                f"lavis.tokenizer: {self.tokenizer}: neither a folder here nor in the local cache, and the hub did "
                f"not give it ({type(error).__name__}). Where there is internet: hf download {self.tokenizer} "
                f"vocab.txt --local-dir checkpoints/{self.tokenizer.split('/')[-1]}; then name that folder"
            ) from None


class Lavis:
    """`num_captions` captions per picture, best first.

    A caption's score is the geometric mean of its tokens' probabilities, ``exp(mean log p)``, the end included, by the
    model as it is: without the least length and the penalty on repetition that LAVIS decodes with.

    By beams, LAVIS' own ``generate`` gives one caption as often as it is asked for captions; here they are the best of
    the beams. By nucleus sampling, what is drawn depends on `seed` and the picture, not on the batch it is in.
    """

    Options = LavisOptions
    INTERPRETER = INTERPRETER

    def __init__(self, options: LavisOptions, execution: ExecutionParams) -> None:
        self._options = options
        self._device_name = execution.device

    def fingerprint(self) -> Mapping[str, Any]:
        """Weights, vocabulary, configuration, options of the decoding in use, LAVIS' version and ours."""
        options = self._options
        options.require()
        unread = {"top_p", "seed"} if options.decoding == "beams" else {"num_beams"}
        return {
            "extractor": "captions.lavis",
            "version": VERSION,
            "lavis": environments.version(INTERPRETER, "salesforce-lavis"),
            "checkpoint": f"sha256:{file_digest(Path(options.weights).expanduser())}",
            "vocabulary": file_digest(options.vocabulary()),
            "configuration": [file_digest(file) for file in self._configurations()],
            **options.model_dump(exclude={"name", "model_type", "config", "weights", "tokenizer", *unread}),
        }

    def prepare(self, image: Image.Image) -> "torch.Tensor":
        """Resize and normalise one picture, *Shape:* (channels, height, width)."""
        pixels: torch.Tensor = self._processor(image)
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

        options, model, k, batch = self._options, self._model, self._options.num_captions, len(pixels)
        prompt = self._prompt.repeat(batch, 1)
        if options.decoding == "beams":
            decoding: dict[str, Any] = {"do_sample": False, "num_beams": options.num_beams}
            copies = options.num_beams
        else:
            steps = options.max_length - prompt.shape[1]
            nucleus = Nucleus(pixels, k, options.top_p, 1.0, options.seed, steps)
            # LAVIS' own penalty; its logits processors come before ours.
            decoding = {"do_sample": True, "top_k": 0, "repetition_penalty": 1.1, "logits_processor": [nucleus]}
            copies = k
        with torch.inference_mode():
            seen = model.forward_encoder({"image": pixels})
            copied = seen.repeat_interleave(copies, dim=0)  # this transformers copies the prompt alone
            sequences = model.text_decoder.generate(
                input_ids=prompt,
                encoder_hidden_states=copied,
                encoder_attention_mask=self._all_seen(copied),
                max_length=options.max_length,
                min_length=options.min_length,
                num_return_sequences=k,
                eos_token_id=model.tokenizer.sep_token_id,
                pad_token_id=model.tokenizer.pad_token_id,
                **decoding,
            )
            scores = self._log_probabilities(sequences, seen.repeat_interleave(k, dim=0), prompt.shape[1])
        texts = model.tokenizer.batch_decode(sequences[:, prompt.shape[1] :], skip_special_tokens=True)
        captions = [Caption(text.strip(), round(math.exp(score), 4)) for text, score in zip(texts, scores, strict=True)]
        groups = [captions[index * k : (index + 1) * k] for index in range(batch)]
        return [sorted(group, key=lambda caption: -(caption.score or 0.0)) for group in groups]

    def _log_probabilities(self, sequences: "torch.Tensor", seen: "torch.Tensor", start: int) -> list[float]:
        """Mean log probability of each caption's tokens.

        Args:
            sequences: token ids with padding behind the closing token, *Shape:* (captions, length).
            seen: the encoded picture of each caption, *Shape:* (captions, patches, width).
            start: how many tokens of a prompt come before the caption.
        """
        model = self._model
        ended = (sequences == model.tokenizer.sep_token_id).long()
        read = (ended.cumsum(dim=1) - ended == 0).long()
        logits = model.text_decoder(
            input_ids=sequences[:, :-1],
            attention_mask=read[:, :-1],
            encoder_hidden_states=seen,
            encoder_attention_mask=self._all_seen(seen),
            return_dict=True,
        ).logits
        tokens = logits.float().log_softmax(dim=-1).gather(-1, sequences[:, 1:, None])[..., 0]
        tokens, read = tokens[:, start - 1 :], read[:, start:]
        means: list[float] = ((tokens * read).sum(dim=1) / read.sum(dim=1).clamp(min=1)).cpu().tolist()
        return means

    @staticmethod
    def _all_seen(seen: "torch.Tensor") -> "torch.Tensor":
        return seen.new_ones(seen.shape[:-1]).long()

    def _configurations(self) -> list[Path]:
        """The model's YAML file, and that of its decoder."""
        packages = environments.packages(INTERPRETER)
        library = Path() if packages is None else packages / "lavis"
        given = self._options.config
        file = (
            Path(given).expanduser()
            if given is not None
            else library / "configs" / "models" / f"blip_caption_{self._options.model_type}.yaml"
        )
        try:
            decoder = library / yaml.load(file).values["model"]["med_config_path"]
        except (KeyError, TypeError, UserError) as error:
            raise UserError(
                f"lavis.config: {file}: no model of LAVIS ({type(error).__name__}: {error}); expected its "
                "YAML, with model.med_config_path"
            ) from None
        return [file, decoder]

    def load(self) -> None:
        """Load image processor, tokenizer and model, and encode the prompt.

        Raises:
            UserError: the device is not available, or weights, vocabulary and configuration do not fit together.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it imports, which is as old as it is
            import lavis.models as library
        from lavis.processors.blip_processors import BlipImageEvalProcessor
        from omegaconf import OmegaConf

        self._device = _torch.device(self._device_name)
        self._config = OmegaConf.load(self._configurations()[0]).model
        self._processor = BlipImageEvalProcessor(image_size=self._config.image_size)
        self._model = self._captioner(library)
        self._prompt = self._encoded_prompt()

    def _encoded_prompt(self) -> "torch.Tensor":
        """Token ids that every caption continues, as LAVIS makes them, *Shape:* (1, length).

        Raises:
            UserError: they leave no room for a caption.
        """
        tokenizer = self._model.tokenizer
        ids = tokenizer(self._config.get("prompt") or "", return_tensors="pt").input_ids[:, :-1]
        ids[:, 0] = tokenizer.bos_token_id
        if ids.shape[1] >= self._options.max_length:
            raise UserError(
                f"captions.lavis.max_length: the prompt alone takes {ids.shape[1]} tokens; found "
                f"{self._options.max_length}"
            )
        return ids.to(self._device)

    def _captioner(self, library: Any) -> Any:
        """The model in evaluation mode, made of LAVIS' classes in `library` and the weights that params name."""
        import torch

        captioner = library.BlipCaption
        tokenizer = self._tokenizer()

        class Captioner(captioner):  # type: ignore[misc,valid-type]
            @classmethod
            def init_tokenizer(cls) -> Any:
                return tokenizer

        config, options = self._config, self._options
        decoder = library.XBertLMHeadDecoder.from_config(config)
        if len(tokenizer) != decoder.config.vocab_size:
            raise UserError(
                f"captions.lavis.tokenizer: {options.tokenizer} has {len(tokenizer)} tokens with LAVIS' "
                f"two, expected the captioner's {decoder.config.vocab_size}"
            )
        model = Captioner(
            library.VisionTransformerEncoder.from_config(config),
            decoder,
            prompt=config.get("prompt") or "",
            max_txt_len=config.get("max_txt_len", 40),
        )
        weights = load_weights(Path(options.weights).expanduser())
        try:
            found = model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            first = str(error).strip().splitlines()[-1].strip()
            raise UserError(
                f"captions.lavis.weights: {options.weights} does not fit {options.model_type}: {first}"
            ) from None
        missing = [name for name in found.missing_keys if not name.endswith(("position_ids", "decoder.bias"))]
        if missing:
            raise UserError(
                f"captions.lavis.weights: {options.weights} lacks {len(missing)} tensors of "
                f"{options.model_type}, the first of which is {missing[0]}"
            )
        return model.eval().to(self._device, getattr(torch, options.dtype))

    def _tokenizer(self) -> Any:
        """As LAVIS makes it, from a vocabulary on disk."""
        from transformers import BertTokenizer

        tokenizer = BertTokenizer(str(self._options.vocabulary()))
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        return tokenizer
