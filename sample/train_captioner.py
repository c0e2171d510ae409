"""Trains checkpoints/sample/blip, a small BLIP captioner, on rendered pictures: `python -m sample.train_captioner`.

The result loads and runs like `Salesforce/blip-image-captioning-base`. How good it is, checkpoint_quality.py measures.
"""

import argparse
import os
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipProcessor
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from pipeline.core.checksums import seal
from sample import fitting, render, training_pictures

FOLDER = Path("checkpoints/sample/blip")
SIDE, PATCH = 128, 16  # pixels
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]")  # BERT's, and BLIP's own two
MAX_TOKENS = 24
SHIFT = 6  # pixels that a picture is moved by at random, so that no place of a shape on the patches is the usual one


def vocabulary() -> list[str]:
    """Every word of the caption grammar, and letters and their continuations, so that any prompt can be encoded."""
    words = {"a", "an", "picture", "photo", "of"}
    words.update(render.COLOURS, render.CLASSES, *(phrase.split() for phrase in render.SCENE_PHRASES.values()))
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    characters = [*letters, *"0123456789", *"!\"#$%&'()*+,-./:;?@_"]
    return [*SPECIAL_TOKENS, *sorted(words.union(characters)), *(f"##{c}" for c in [*letters, *"0123456789"])]


def processor() -> BlipProcessor:
    """The processor that is saved beside the model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
        tokenizer = BertTokenizerFast(vocab=str(path), do_lower_case=True, model_max_length=MAX_TOKENS)
    tokenizer.add_special_tokens({"bos_token": "[DEC]", "additional_special_tokens": ["[ENC]"]})
    return BlipProcessor(BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer)


def config(tokenizer: BertTokenizerFast) -> BlipConfig:
    """The architecture: BLIP's, with few and narrow layers."""
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 384, "projection_dim": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"), "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 128, "intermediate_size": 384, "projection_dim": 64, "num_hidden_layers": 6,
        "num_attention_heads": 4, "image_size": SIDE, "patch_size": PATCH,
        "initializer_range": 0.02,  # BLIP's default, 1e-10, is for weights that are loaded, not learned from nothing
    }  # fmt: skip
    return BlipConfig(text_config=text, vision_config=vision, projection_dim=64, image_text_hidden_size=64)


def caption_tokens(tokenizer: BertTokenizerFast) -> Tensor:
    """Token ids of every caption, (colours, classes, scenes, tokens): `[DEC]`, the words, `[SEP]`, padding."""
    texts = [
        render.caption(render.Spec(scene, [render.Thing(label, colour)]))
        for colour in render.COLOURS for label in render.CLASSES for scene in render.SCENES
    ]  # fmt: skip
    ids = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    ids[:, 0] = tokenizer.convert_tokens_to_ids("[DEC]")
    return ids.view(len(render.COLOURS), len(render.CLASSES), len(render.SCENES), -1)


def train(folder: Path, count: int, batch_size: int, schedule: fitting.Schedule, seed: int,
          cache: Path | None = None) -> None:  # fmt: skip
    """Train a captioner on `count` pictures and save it to `folder`, now and then on the way too."""
    torch.manual_seed(seed)
    blip = processor()
    tokens = caption_tokens(blip.tokenizer)
    model = BlipForConditionalGeneration(config(blip.tokenizer))
    print(f"captioner: {model.num_parameters():,} parameters")
    pool = training_pictures.pool(render.TRAINING_SPACE, count, (SIDE, SIDE), Image.Resampling.BICUBIC, cache)
    mean = torch.tensor(blip.image_processor.image_mean).view(3, 1, 1) * 255
    deviation = torch.tensor(blip.image_processor.image_std).view(3, 1, 1) * 255

    def loss_at(_: int) -> Tensor:
        rows = torch.randint(count, (batch_size,))
        pixels = pool.pixels[rows].float()
        mirrored = torch.rand(batch_size) < 0.5
        pixels[mirrored] = pixels[mirrored].flip(-1)
        down, right = torch.randint(2 * SHIFT + 1, (2,)).tolist()
        pixels = nn.functional.pad(pixels, (SHIFT,) * 4, "replicate")[..., down : down + SIDE, right : right + SIDE]
        ids = tokens[tuple(pool.captions[rows].T)]
        mask = (ids != blip.tokenizer.pad_token_id).long()
        with torch.autocast("cpu", torch.bfloat16):
            out = model((pixels - mean) / deviation, ids, mask, labels=ids.masked_fill(mask == 0, -100))
        return out.loss

    def report(_: int, averaged: BlipForConditionalGeneration) -> None:
        fitting.save(averaged, folder)
        blip.save_pretrained(folder)
        seal(folder)

    fitting.fit(model, loss_at, schedule, report)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m sample.train_captioner", description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--pictures", type=int, default=24_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cache", type=Path, help="a folder that keeps rendered pictures between runs")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    train(options.output, options.pictures, options.batch_size,
          fitting.Schedule(options.steps, options.learning_rate), options.seed, options.cache)  # fmt: skip


if __name__ == "__main__":
    main()
