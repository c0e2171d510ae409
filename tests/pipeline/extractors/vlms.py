"""Small vision-language models of the true architectures, untrained: for the tests of extractors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.pipeline.extractors.cases import WORDS

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
NARROW = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def tokenizer(special: Sequence[str], **named: str) -> Any:
    """One token a word; `special` tokens beside, and some `named` as processors ask for them: image for image_token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *WORDS[5:], "user", "assistant", *special]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        **dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True)),
        extra_special_tokens={f"{name}_token": token for name, token in named.items()},
    )


def chat(picture: str) -> str:
    """A chat template that puts `picture` where a picture is, and thinks where it is told to."""
    return (
        "{% for message in messages %}{{ message.role }} {% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{picture}{{% else %}} {{{{ part.text }}}}{{% endif %}}"
        "{% endfor %} {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
        "{% if thinking %}<think>{% endif %}"
    )


def text(tokens: Any, **more: Any) -> dict[str, Any]:
    """The configuration of a small language model."""
    return {
        **NARROW,
        "num_key_value_heads": 2,
        "vocab_size": len(tokens),
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        **more,
    }


SIGHT = {**NARROW, "image_size": 32, "patch_size": 8}
"""The configuration of a small reader of pictures."""


def _llava() -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(["<image>", "<think>"], image="<image>")
    config = t.LlavaConfig(
        vision_config={**SIGHT, "projection_dim": 16, "model_type": "clip_vision_model"},
        text_config=text(tokens, model_type="llama"),
        image_token_index=tokens.image_token_id,
        vision_feature_layer=-1,
    )
    pictures = t.CLIPImageProcessorPil(size=square(32), crop_size=square(32))
    processor = t.LlavaProcessor(
        pictures,
        tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat("<image>"),
    )
    return t.LlavaForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(["<soft>", "<boi>", "<eoi>"], image="<soft>", boi="<boi>", eoi="<eoi>")
    config = t.Gemma3Config(
        text_config=text(tokens, head_dim=16, sliding_window=64, layer_types=["sliding_attention", "full_attention"]),
        vision_config=SIGHT,
        mm_tokens_per_image=4,
        image_token_index=tokens.image_token_id,
        boi_token_index=tokens.boi_token_id,
        eoi_token_index=tokens.eoi_token_id,
    )
    pictures = t.Gemma3ImageProcessorPil(size=square(32), image_seq_length=4)
    return t.Gemma3ForConditionalGeneration(config), t.Gemma3Processor(
        pictures, tokens, image_seq_length=4, chat_template=chat("<boi>")
    )


def _paligemma() -> tuple[Any, Any]:
    import transformers as t

    pictures = t.SiglipImageProcessorPil(size=square(32))
    pictures.image_seq_length = 16
    processor = t.PaliGemmaProcessor(pictures, tokenizer(["<image>"]))  # it adds a thousand places to the tokens
    tokens = processor.tokenizer
    config = t.PaliGemmaConfig(
        text_config=text(tokens, model_type="gemma", head_dim=16),
        vision_config={**SIGHT, "model_type": "siglip_vision_model"},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return t.PaliGemmaForConditionalGeneration(config), processor


_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
_IDEFICS = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *_TILES]


def _idefics3() -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(_IDEFICS)
    config = t.Idefics3Config(
        text_config=text(tokens, model_type="llama"),
        vision_config=SIGHT,
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    pictures = t.Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return t.Idefics3ForConditionalGeneration(config), t.Idefics3Processor(
        pictures, tokens, image_seq_len=4, chat_template=chat("<image>")
    )


def _smolvlm() -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(_IDEFICS)
    config = t.SmolVLMConfig(
        text_config=text(tokens, model_type="llama"),
        vision_config=SIGHT,
        scale_factor=2,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    pictures = t.SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return t.SmolVLMForConditionalGeneration(config), t.SmolVLMProcessor(
        pictures, tokens, t.SmolVLMVideoProcessor(), image_seq_len=4, chat_template=chat("<image>")
    )


def _kosmos2() -> tuple[Any, Any]:
    import transformers as t

    pictures = t.CLIPImageProcessorPil(size=square(32), crop_size=square(32))
    processor = t.Kosmos2Processor(pictures, tokenizer(["<image>"]))
    config = t.Kosmos2Config(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "embed_dim": 32,
            "layers": 2,
            "ffn_dim": 64,
            "attention_heads": 2,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        vision_config=SIGHT,
    )
    return t.Kosmos2ForConditionalGeneration(config), processor


def _got_ocr2() -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(["<imgpad>", "<img>", "</img>", "<|im_start|>", "<|im_end|>"])
    config = t.GotOcr2Config(
        text_config=text(tokens, model_type="qwen2"),
        vision_config={
            "hidden_size": 32,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 1,  # as many tokens a picture as its processor says: 256
            "mlp_dim": 64,
            "window_size": 2,
            "global_attn_indexes": [],
        },
        image_token_index=tokens.convert_tokens_to_ids("<imgpad>"),
        pad_token_id=0,
    )
    pictures = t.GotOcr2ImageProcessorPil(size=square(64))
    return t.GotOcr2ForConditionalGeneration(config), t.GotOcr2Processor(pictures, tokens)


def _paddleocr_vl() -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(["<picture>", "<begin>", "<end>"], image="<picture>")
    config = t.PaddleOCRVLConfig(
        text_config=text(tokens, head_dim=16, rope_parameters=_rope([2, 3, 3])),
        vision_config={**SIGHT, "image_size": 56, "patch_size": 14},
        image_token_id=tokens.image_token_id,
        vision_start_token_id=tokens.convert_tokens_to_ids("<begin>"),
        vision_end_token_id=tokens.convert_tokens_to_ids("<end>"),
    )
    pictures = t.PaddleOCRVLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16})
    return t.PaddleOCRVLForConditionalGeneration(config), t.PaddleOCRVLProcessor(
        pictures, tokens, chat_template=chat("<begin><picture><end>")
    )


_QWEN = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]


def _qwen(family: str, video: str, **sight: Any) -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(_QWEN)
    picture, film, begin, end = map(tokens.convert_tokens_to_ids, _QWEN)
    config = getattr(t, f"{family}Config")(
        text_config=text(tokens, head_dim=16, rope_parameters=_rope([4, 2, 2])),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "depth": 2,
            "patch_size": 8,
            "out_hidden_size": 32,
            **sight,
        },
        image_token_id=picture,
        video_token_id=film,
        vision_start_token_id=begin,
        vision_end_token_id=end,
    )
    pictures = t.Qwen2VLImageProcessorPil(size={"shortest_edge": 16 * 16, "longest_edge": 16 * 16 * 16}, patch_size=8)
    return getattr(t, f"{family}ForConditionalGeneration")(config), getattr(t, f"{family}Processor")(
        pictures, tokens, getattr(t, video)(), chat_template=chat("".join((_QWEN[2], _QWEN[0], _QWEN[3])))
    )


def _qwen3_vl() -> tuple[Any, Any]:
    return _qwen("Qwen3VL", "Qwen3VLVideoProcessor", num_position_embeddings=16, deepstack_visual_indexes=[0])


def _qwen2_5_vl() -> tuple[Any, Any]:
    return _qwen("Qwen2_5_VL", "Qwen2VLVideoProcessor", window_size=32, fullatt_block_indexes=[1])


def _rope(sections: list[int]) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}


def _internvl() -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(
        ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        start_image="<img>",
        end_image="</img>",
        context_image="<IMG_CONTEXT>",
        video="<video>",
    )
    config = t.InternVLConfig(
        text_config=text(tokens, model_type="qwen2"),
        vision_config={**SIGHT, "image_size": [32, 32], "patch_size": [8, 8]},
        image_token_id=tokens.context_image_token_id,
        image_seq_length=4,
    )
    pictures = t.GotOcr2ImageProcessorPil(size=square(32), crop_to_patches=True, max_patches=4)
    return t.InternVLForConditionalGeneration(config), t.InternVLProcessor(
        pictures, tokens, t.InternVLVideoProcessor(), image_seq_length=4, chat_template=chat("<IMG_CONTEXT>")
    )


def _llava_onevision() -> tuple[Any, Any]:
    import transformers as t

    tokens = tokenizer(["<image>", "<video>"], image="<image>", video="<video>")
    grids = [[32, 64], [64, 32], [64, 64]]
    config = t.LlavaOnevisionConfig(
        text_config=text(tokens, model_type="qwen2"),
        vision_config={**SIGHT, "model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokens.image_token_id,
        video_token_index=tokens.video_token_id,
        image_grid_pinpoints=grids,
        vision_aspect_ratio="anyres_max_4",
        vision_feature_layer=-1,
    )
    pictures = t.LlavaOnevisionImageProcessorPil(size=square(32), image_grid_pinpoints=grids)
    return t.LlavaOnevisionForConditionalGeneration(config), t.LlavaOnevisionProcessor(
        pictures,
        tokens,
        t.LlavaOnevisionVideoProcessor(),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_4",
        chat_template=chat("<image>"),
    )


CORE: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": _llava,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "idefics3": _idefics3,
    "kosmos2": _kosmos2,
    "got_ocr2": _got_ocr2,
    "paddleocr_vl": _paddleocr_vl,
}
"""Those whose processors work without torchvision."""

WITH_TORCHVISION: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen3_vl": _qwen3_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "smolvlm": _smolvlm,
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
}
"""Those that can only be made, and read, where torchvision is."""


def write_vlm(family: str, folder: Path) -> Path:
    """A vision-language model that says words alone, at least one, and ends."""
    import torch

    torch.manual_seed(0)
    model, processor = {**CORE, **WITH_TORCHVISION}[family]()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:  # pictures are told apart
                weights.normal_(std=0.3)
    tokens, words = processor.tokenizer, set(WORDS[5:])
    end = tokens.eos_token_id
    model.generation_config.suppress_tokens = sorted(
        place for word, place in tokens.get_vocab().items() if word not in words and place != end
    )
    model.generation_config.begin_suppress_tokens = [end]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
