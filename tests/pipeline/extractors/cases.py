"""Small models of the true architectures, untrained, and how results are compared: for the tests of extractors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.core.features import FeatureRow, Features
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import Caption, read
from pipeline.extractors.base import Extractor, Result, load
from pipeline.extractors.registry import choose
from pipeline.settings.params import ExecutionParams

FONT = Path(__file__).resolve().parents[3] / "sample" / "font" / "DejaVuSans-Bold.ttf"
CPU = ExecutionParams(device="cpu")

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "blue",
    "dog",
    "cat",
    "ball",
    "on",
    "the",
    "beach",
    "in",
    "snow",
    "runs",
    "sits",
    "picture",
    "of",
)


def write_blip(folder: Path) -> Path:
    """A BLIP captioner of the true architecture, small and untrained."""
    import torch
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    torch.manual_seed(0)
    narrow = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "initializer_range": 0.5,
        "projection_dim": 16,
    }
    config = BlipConfig(
        vision_config={**narrow, "image_size": 32, "patch_size": 8},
        text_config={
            **narrow,
            "encoder_hidden_size": 32,
            "vocab_size": len(WORDS),
            "max_position_embeddings": 32,
            "bos_token_id": 2,
            "pad_token_id": 0,
            "eos_token_id": 3,
            "sep_token_id": 3,
        },
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():  # it says words, and ends, not other special tokens
        model.text_decoder.cls.predictions.bias[[0, 1, 2, 4]] = -1e4
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_blip_2(folder: Path) -> Path:
    """A BLIP-2 with an OPT: the picture stands in front of the text that a language model goes on with."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessorPil,
        OPTConfig,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = OPTConfig(
        vocab_size=len(WORDS) + 1,
        hidden_size=32,
        ffn_dim=64,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=32,
        word_embed_proj_dim=32,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        init_std=0.5,
    )
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**narrow, image_size=32, patch_size=8, initializer_range=0.5).to_dict(),
        qformer_config=Blip2QFormerConfig(
            **narrow, vocab_size=len(WORDS), encoder_hidden_size=32, initializer_range=0.5
        ).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=len(WORDS),
    )
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():  # it says words, and ends: the first number of what it puts out speaks against the others
        decoder = model.language_model.model.decoder
        decoder.final_layer_norm.weight[0], decoder.final_layer_norm.bias[0] = 0.0, 100.0
        decoder.embed_tokens.weight[:, 0] = 0.0
        decoder.embed_tokens.weight[[0, 1, 2, 4, len(WORDS)], 0] = -1.0
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, WORDS[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_git(folder: Path) -> Path:
    """A GIT: one decoder over the picture's patches and the text."""
    import torch
    from transformers import BertTokenizer, CLIPImageProcessorPil, GitConfig, GitForCausalLM

    torch.manual_seed(0)
    narrow = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "initializer_range": 0.5,
    }
    config = GitConfig(
        vision_config={**narrow, "image_size": 32, "patch_size": 8},
        **narrow,
        vocab_size=len(WORDS),
        max_position_embeddings=32,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    model = GitForCausalLM(config)
    with torch.no_grad():  # it says words, and ends, not other special tokens
        model.output.bias[[0, 1, 2, 4]] = -1e4
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    square = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """A CLIP."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", *WORDS[5:], "photo", "person", "[SEP]"]
    write_tokenizer(folder, vocabulary)
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = {
        **narrow,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 16,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": len(vocabulary) - 1,
    }
    model = CLIPModel(
        CLIPConfig(vision_config={**narrow, "image_size": 32, "patch_size": 8}, text_config=text, projection_dim=16)
    )
    with torch.no_grad():  # words unlike each other
        model.text_model.embeddings.token_embedding.weight.normal_(std=1.0)
        model.vision_model.embeddings.patch_embedding.weight.normal_(std=0.3)
    model.save_pretrained(folder)
    square = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder)
    return folder


def write_siglip(folder: Path) -> Path:
    """A SigLIP: its texts are padded to their full length."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", *WORDS[5:], "photo", "person", "[SEP]"]
    write_tokenizer(folder, vocabulary)
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = SiglipModel(
        SiglipConfig(
            vision_config={**narrow, "image_size": 32, "patch_size": 8},
            text_config={**narrow, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "projection_size": 32},
        )
    )
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight.normal_(std=1.0)
        model.vision_model.embeddings.patch_embedding.weight.normal_(std=0.3)
        model.logit_scale.fill_(3.0)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, vocabulary: Sequence[str]) -> None:
    from transformers import BertTokenizer

    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


def written(text: str, width: int = 320, height: int = 120, size: int = 32) -> Image.Image:
    picture = Image.new("RGB", (width, height), (240, 240, 250))
    ImageDraw.Draw(picture).multiline_text((20, 15), text, (10, 10, 60), ImageFont.truetype(str(FONT), size))
    return picture


def make(section: tuple[str, Mapping[str, Any]], execution: ExecutionParams = CPU) -> Extractor:
    """The extractor of a section of params, its model not loaded yet."""
    extractor = choose(*section).create(execution)
    assert isinstance(extractor, Extractor)
    return extractor


def ready(section: tuple[str, Mapping[str, Any]], execution: ExecutionParams = CPU) -> Extractor:
    """The extractor of a section of params, its model loaded."""
    return load(make(section, execution))


def tags(folder: Path, pictures: list[Image.Image], **options: Any) -> list[list[Any]]:
    section = {"extractor": "transformers", "transformers": {"model": str(folder), **options}}
    return [list(found) for found in ready(("objects", section)).extract(pictures)]


def captions(folder: Path, pictures: list[Image.Image], **options: Any) -> list[list[Caption]]:
    section = {"extractor": "blip", "blip": {"model": str(folder), **options}}
    return [list(found) for found in ready(("captions", section)).extract(pictures)]  # type: ignore[arg-type]


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Equal but for the last digits, and for the order of what is equally good."""
    if any(isinstance(one, np.ndarray) for one in (*found, *expected)):
        return len(found) == len(expected) and all(
            np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=2e-3, atol=2e-3)
            for one, other in zip(found, expected, strict=True)
        )

    def comparable(items: Sequence[Any]) -> list[tuple[str, list[float]]]:
        rows = [asdict(item) for item in items]
        places = [np.ravel(row.get("box") or row.get("polygon") or []).tolist() for row in rows]
        return sorted(
            (row.get("label") or row["text"], [*place, 1000 * (row["score"] or 0.0)])
            for row, place in zip(rows, places, strict=True)
        )

    def alike(one: tuple[str, list[float]], other: tuple[str, list[float]]) -> bool:
        return one[0] == other[0] and bool(np.allclose(one[1], other[1], rtol=0, atol=0.2))

    return len(found) == len(expected) and all(
        len(one) == len(other) and all(map(alike, comparable(one), comparable(other)))
        for one, other in zip(found, expected, strict=True)
    )


def rows_of(kind: str, output: Path) -> list[tuple[str, str, str | None, Any]]:
    """What the engine has written: of each picture its name, status, error and result."""
    if kind in TEXT_KINDS:
        return [(row.name, row.status, row.error, row.items) for row in TEXT_KINDS[kind].read(output)]
    features = Features.open(output)
    index = read(output / "index.jsonl", FeatureRow, kind)
    return [(row.image, row.status, row.error, features.get(row.image)) for row in index]


class Failing:
    """An extractor that runs out of memory on batches of more than four, and chokes on one of the pictures."""

    def __init__(self, extractor: Extractor, bad: Image.Image) -> None:
        self.extractor, self.bad = extractor, np.asarray(bad)
        self.sizes: list[int] = []

    def fingerprint(self) -> Mapping[str, Any]:
        return self.extractor.fingerprint()

    def extract(self, images: Sequence[Image.Image]) -> Sequence[Result]:
        self.sizes.append(len(images))
        if len(images) > 4:
            raise MemoryError("out of memory")
        if any(np.array_equal(np.asarray(image), self.bad) for image in images):
            raise RuntimeError("choked")
        return self.extractor.extract(images)
