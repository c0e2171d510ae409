"""Small detectors of the true architectures, untrained: for the tests of extractors."""

import json
from pathlib import Path
from typing import Any

from tests.pipeline.extractors.cases import WORDS, write_tokenizer


def write_yolos(folder: Path) -> Path:
    """A YOLOS detector: its pictures keep their aspect ratio, so no two need to have the same shape."""
    import torch
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[64, 96],
        patch_size=16,
        num_detection_tokens=12,
        initializer_range=0.5,
        id2label={0: "person", 1: "dog", 2: "ball"},
        label2id={"person": 0, "dog": 1, "ball": 2},
    )
    YolosForObjectDetection(config).save_pretrained(folder)
    YolosImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


def write_rt_detr(folder: Path) -> Path:
    """An RT-DETR detector: every picture becomes the same size."""
    import torch
    from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessorPil, RTDetrResNetConfig

    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 32],
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=32,
        num_queries=20,
        decoder_layers=1,
        decoder_attention_heads=2,
        num_denoising=0,
        initializer_bias_prior_prob=0.3,
        id2label={0: "person", 1: "dog", 2: "ball"},
        label2id={"person": 0, "dog": 1, "ball": 2},
    )
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def write_rf_detr(folder: Path, **config: Any) -> Path:
    """An RF-DETR detector, whose image processor needs torchvision: its settings are written as transformers does."""
    import torch
    from transformers import RfDetrConfig, RfDetrForObjectDetection

    torch.manual_seed(0)
    backbone = {
        "model_type": "rf_detr_dinov2",
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "num_windows": 2,
        "out_features": ["stage1", "stage3"],
        "initializer_range": 0.2,
    }
    named = {"id2label": {0: "person", 1: "dog", 2: "ball"}, "label2id": {"person": 0, "dog": 1, "ball": 2}}
    model = RfDetrForObjectDetection(
        RfDetrConfig(
            backbone_config=backbone,
            d_model=32,
            num_queries=20,
            decoder_layers=2,
            decoder_ffn_dim=32,
            decoder_self_attention_heads=2,
            decoder_cross_attention_heads=2,
            decoder_n_points=2,
            group_detr=2,
            c2f_num_blocks=1,
            init_std=0.3,
            **(config or named),
        )
    )
    with torch.no_grad():  # as likely as not, and boxes that the picture has a say in
        torch.nn.init.normal_(model.class_embed.weight, std=0.3)
        torch.nn.init.zeros_(model.class_embed.bias)
        torch.nn.init.normal_(model.bbox_embed.layers[-1].weight, std=0.1)
    model.save_pretrained(folder)
    settings = {
        "image_processor_type": "RfDetrImageProcessor",
        "do_resize": True,
        "size": {"height": 64, "width": 64},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_pad": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def write_grounding_dino(folder: Path) -> Path:
    """A Grounding DINO: labels are phrases of one text that it reads along with the picture."""
    import torch
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessorPil,
        SwinConfig,
    )

    torch.manual_seed(0)
    # BERT's numbers for its special tokens, which the model's code has by heart.
    fixed = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    write_tokenizer(folder, [fixed.get(number, f"[unused{number}]") for number in range(1030)] + list(WORDS[5:]))
    text = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=1030 + len(WORDS[5:]),
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        num_queries=20,
        encoder_layers=1,
        decoder_layers=2,
        d_model=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_text_len=32,
        init_std=0.3,
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 128}).save_pretrained(folder)
    return folder


def write_owlv2(folder: Path) -> Path:
    """An OWLv2: labels are texts of their own, and the picture is padded to a square."""
    import torch
    from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil

    torch.manual_seed(0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[MASK]", *WORDS[5:], "photo", "[SEP]"]  # the largest number ends a text
    write_tokenizer(folder, vocabulary)
    narrow = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = Owlv2Config(
        vision_config={**narrow, "image_size": 64, "patch_size": 16},
        text_config={**narrow, "vocab_size": len(vocabulary), "max_position_embeddings": 16},
        projection_dim=32,
    )
    model = Owlv2ForObjectDetection(config)
    with torch.no_grad():  # labels unlike each other, and boxes of any size
        model.owlv2.text_model.embeddings.token_embedding.weight.normal_(std=1.0)
        model.class_head.logit_scale.weight.normal_(std=0.5)
        model.class_head.logit_shift.weight.normal_(std=0.2)
        model.box_head.dense2.weight.mul_(0.1)
    model.save_pretrained(folder)
    Owlv2ImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder
