"""Models of the true architectures, small where the library allows it and untrained, for the isolated interpreters.

Each function writes what a user would have on disk, and gives the options that name it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.settings import yaml
from tests.pipeline.extractors.cases import WORDS


def write_lavis(folder: Path) -> dict[str, Any]:
    """LAVIS' BLIP captioner: its ViT, whose 12 blocks share their weights so that the file stays small, on small
    pictures, and a narrow decoder."""
    import torch
    from lavis.models import VisionTransformerEncoder, XBertLMHeadDecoder
    from omegaconf import OmegaConf

    folder.mkdir()
    torch.manual_seed(0)
    decoder = {
        "architectures": ["BertModel"],
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "hidden_act": "gelu",
        "initializer_range": 0.3,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 64,
        "model_type": "bert",
        "pad_token_id": 0,
        "add_type_embeddings": False,
        "vocab_size": len(WORDS) + 2,
        "encoder_width": 768,
        "add_cross_attention": True,
    }
    (folder / "decoder.json").write_text(json.dumps(decoder))
    model = {
        "arch": "blip_caption",
        "vit_type": "base",
        "vit_grad_ckpt": False,
        "vit_ckpt_layer": 0,
        "image_size": 48,
        "med_config_path": str(folder / "decoder.json"),
        "prompt": "a picture of ",
    }
    config = folder / "captioner.yaml"
    config.write_text(yaml.dump({"model": model}))
    read = OmegaConf.load(config).model
    vision, text = VisionTransformerEncoder.from_config(read), XBertLMHeadDecoder.from_config(read)
    with torch.no_grad():
        text.cls.predictions.bias[[0, 1, 2, 4, len(WORDS), len(WORDS) + 1]] = -1e4  # it says words, and ends
        vision.patch_embed.proj.weight.mul_(10)
    state = {f"visual_encoder.{name}": value for name, value in vision.state_dict().items()}
    for name in state:
        if name.startswith("visual_encoder.blocks."):
            first = "visual_encoder.blocks.0." + name.split(".", 3)[3]
            state[name] = state[first]
    state.update({f"text_decoder.{name}": value for name, value in text.state_dict().items()})
    torch.save({"model": state, "epoch": 3}, folder / "captioner.pth")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return {
        "config": str(config),
        "weights": str(folder / "captioner.pth"),
        "tokenizer": str(folder / "tokenizer"),
        "max_length": 16,
        "min_length": 6,
    }


def write_detectron2(folder: Path, zoo: str, classes: Sequence[str] | None) -> dict[str, Any]:
    """A detector of the model zoo, with an 18-layer ResNet and narrow heads, on small pictures."""
    import torch
    from detectron2 import model_zoo
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from safetensors.torch import save_file

    folder.mkdir()
    count = 80 if classes is None else len(classes)
    own = {
        "_BASE_": model_zoo.get_config_file(zoo),
        "MODEL": {
            "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
            "FPN": {"OUT_CHANNELS": 32},
            "ROI_HEADS": {"NUM_CLASSES": count},
            "ROI_BOX_HEAD": {"FC_DIM": 64},
            "RETINANET": {"NUM_CLASSES": count, "PRIOR_PROB": 0.4, "NUM_CONVS": 1},
            "RPN": {"POST_NMS_TOPK_TEST": 50},
            "DEVICE": "cpu",
            "WEIGHTS": "",
        },
        "INPUT": {"MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 160},
    }
    config = folder / "detector.yaml"
    config.write_text(yaml.dump(own))
    read = get_cfg()
    read.merge_from_file(str(config))
    torch.manual_seed(0)
    model = build_model(read).eval()
    _calibrate(model)
    save_file(model.state_dict(), folder / "detector.safetensors")
    return {
        "model": str(config),
        "weights": str(folder / "detector.safetensors"),
        "classes": classes,
        "threshold": 0.3,
        "max_objects": 8,
    }


def _calibrate(model: Any) -> None:
    """Scale the last layers of a detector so that its scores and boxes differ, but not wildly."""
    import torch

    wanted = {"cls_score": 1.5, "bbox_pred": 0.5, "objectness_logits": 1.0, "anchor_deltas": 0.3}
    page = torch.randint(0, 255, (3, 64, 96), generator=torch.Generator().manual_seed(1)).float()
    for ending, std in wanted.items():
        parts = [part for name, part in model.named_modules() if name.endswith(ending)]
        found: list[Any] = []

        def keep(_part: Any, _inputs: Any, output: Any, found: list[Any] = found) -> None:
            found.append(output.flatten())

        hooks = [part.register_forward_hook(keep) for part in parts]
        with torch.no_grad():
            model([{"image": page}])
            for part in parts:
                part.weight.mul_(std / torch.cat(found).std())
        for hook in hooks:
            hook.remove()


def write_easyocr(folder: Path, pictures: Sequence[Image.Image], language: str) -> dict[str, Any]:
    """CRAFT and EasyOCR's recogniser for a language; the detector's last layer is set so that it finds something."""
    import torch
    from easyocr import config
    from easyocr.craft import CRAFT
    from easyocr.imgproc import normalizeMeanVariance
    from easyocr.model import model, vgg_model

    from pipeline.extractors.easyocr import recogniser

    folder.mkdir()
    torch.manual_seed(0)
    detector = CRAFT(pretrained=False).eval()
    page = np.asarray(pictures[-1].resize((320, 128)))
    with torch.inference_mode():
        maps, _ = detector(torch.from_numpy(normalizeMeanVariance(page).transpose(2, 0, 1)[None]))
    _centre(detector.conv_cls[-1], maps.reshape(-1, 2), torch.tensor([0.15, -0.3]), 0.3)
    chosen = recogniser([language])
    characters = config.recognition_models[chosen.generation][chosen.name]["characters"]
    network, width = (vgg_model.Model, 256) if chosen.generation == "gen2" else (model.Model, 512)
    reader = network(1, width, width, len(characters) + 1).eval()
    line = torch.from_numpy(page[None, None, :64, :, 0].copy()).float() / 127.5 - 1
    last_seen = [part for part in reader.FeatureExtraction.modules() if isinstance(part, torch.nn.Conv2d)][-1]
    with torch.inference_mode():
        seen = reader.FeatureExtraction(line)
    with torch.no_grad():  # else what is seen of the line is next to nothing
        last_seen.weight.mul_(3 / seen.std())
    with torch.inference_mode():
        steps = reader(line, None)
    _centre(reader.Prediction, steps.reshape(-1, steps.shape[-1]), torch.zeros(steps.shape[-1]), 6.0)
    for name, network in (("craft_mlt_25k.pth", detector), (chosen.file, reader)):
        torch.save({f"module.{key}": value for key, value in network.state_dict().items()}, folder / name)
    return {"models": str(folder), "languages": [language], "text_score": 0.0, "canvas_size": 96, "min_size": 8}


def _centre(layer: Any, found: Any, mean: Any, std: float) -> None:
    """Set a last layer so that its outputs, `found` of shape ``(places, outputs)``, have this mean and deviation."""
    import torch

    with torch.no_grad():
        scale = std / found.std(dim=0)
        layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias.copy_((layer.bias - found.mean(dim=0)) * scale + mean)
