"""A small Florence-2 of the true architecture, untrained: for the tests of extractors."""

from pathlib import Path

from tests.pipeline.extractors.cases import WORDS
from tests.pipeline.extractors.vlms import SPECIAL, square, tokenizer

PLACES = tuple(f"<loc_{place}>" for place in range(0, 1000, 37))
"""Some of Florence-2's thousand words for places."""


def write_florence2(folder: Path) -> Path:
    """A Florence-2 that is made to answer by turns with a word or two and with eight places."""
    import torch
    from transformers import CLIPImageProcessorPil, Florence2Config, Florence2ForConditionalGeneration
    from transformers import Florence2Processor as Processor

    torch.manual_seed(3)
    tokens = tokenizer(["<image>", *PLACES], image="<image>")
    config = Florence2Config(
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 8, 16, 16],
            "num_heads": [1, 1, 2, 2],
            "num_groups": [1, 1, 2, 2],
            "window_size": 4,
            "projection_dim": 32,
            "initializer_range": 0.5,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokens),
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "max_position_embeddings": 64,
            "init_std": 0.5,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "decoder_start_token_id": 3,
            "forced_eos_token_id": None,
        },
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
    )
    model = Florence2ForConditionalGeneration(config)
    with (
        torch.no_grad()
    ):  # what it puts out: its first number speaks for words or for places, its second against others
        text, end = model.model.language_model, len(SPECIAL) + len(WORDS[5:])
        [layer], spoken = text.decoder.layers, text.shared.weight
        spoken[:, :2] = torch.tensor([0.0, -9.0])
        spoken[len(SPECIAL) : end, :2] = torch.tensor([4.0, 0.0])
        spoken[tokens.convert_tokens_to_ids(PLACES[0]) :, :2] = torch.tensor([-4.0, 0.0])
        layer.final_layer_norm.weight[1], layer.final_layer_norm.bias[1] = 0.0, 9.0
        for written in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
            written.weight.mul_(0.3 if written is layer.encoder_attn.out_proj else 0.1)
            written.weight[0] = 0.0
        for place, position in enumerate(text.decoder.embed_positions.weight):
            position[0] = 9.0 if place % 10 in (2, 3) else -9.0  # BART's positions begin with the third
    model.save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size=square(64), crop_size=square(64), image_seq_length=5)
    Processor(pictures, tokens).save_pretrained(folder)
    return folder
