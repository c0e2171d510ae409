"""IIE4MNER against the published class: its printed numbers, with weights in closed form."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig

from ner.crf.chain import LinearChainCRF
from ner.models.config import TaggerConfig
from ner.models.iie4mner import Iie4mnerTagger
from ner.views import UNKNOWN_WORD, ViewBatch
from ner.visual import PostVisual, collate_visuals

LAYERS = {
    "text": "self_attention_v2",
    "spans": "self_attention",
    "coarse.items": "img2img_attention",
    "coarse.direct": "txt2img_attention",
    "coarse.items_again": "img2img_attention_v2",
    "coarse.read_text": "img2txt_attention",
    "coarse.aware": "txt2txt_attention",
    "fine.items": "obj2obj_attention",
    "fine.direct": "txt2obj_attention",
    "fine.items_again": "obj2obj_attention_v2",
    "fine.read_text": "obj2txt_attention",
    "fine.aware": "txt2obj_attention_v2",
}
PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "mixed_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "outer_norm": "output.LayerNorm",
}
OTHERS = {
    "augment.": "maug_linear.",
    "span_emission.": "aux_classifier.",
    "regions.": "vismap2text.",
    "regions_again.": "vismap2text_v2.",
    "objects.": "object_embeddings.",
    "join.": "fus3_linear.",
    "emission.": "classifier.",
    "coarse.gate.one.weight": "fus1_w1",
    "coarse.gate.one.bias": "fus1_bias",
    "coarse.gate.other.weight": "fus1_w2",
    "fine.gate.one.weight": "fus2_w1",
    "fine.gate.one.bias": "fus2_bias",
    "fine.gate.other.weight": "fus2_w2",
    "fuse_text.bias": "fusion_bias",
    "encoder.": "bert.",
}


def published_name(name: str) -> str:
    parts = name.split(".")
    if (layer := ".".join(parts[:-2])) in LAYERS:
        return f"{LAYERS[layer]}.layer.0.{PARTS[parts[-2]]}.{parts[-1]}"
    ours = next(ours for ours in OTHERS if name.startswith(ours))
    return OTHERS[ours] + name.removeprefix(ours)


def closed_form(name: str, shape: Sequence[int]) -> Tensor:
    """The parameter of that published name, in closed form."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    values = 0.2 * torch.sin(0.7 * places + sum(name.encode()) % 97) + name.endswith("LayerNorm.weight")
    return values.float().view(*shape)


def published_crf(n_labels: int, name: str) -> LinearChainCRF:
    crf = LinearChainCRF(n_labels)
    names = {"transitions": "transitions", "start": "start_transitions", "stop": "end_transitions"}
    crf.load_state_dict(
        crf.state_dict()
        | {ours: closed_form(f"{name}.{theirs}", getattr(crf, ours).shape) for ours, theirs in names.items()}
    )
    return crf


def published_tagger() -> Iie4mnerTagger:
    encoder = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
    )
    facts = {"region_width": 2048, "n_cells": 49, "object_labels": [str(place) for place in range(83)]}
    config = TaggerConfig(
        system="iie4mner",
        facts=facts | {"words": [str(place) for place in range(7)], "word_width": 4},
        encoder=encoder.to_dict(),
        tag_labels=["O", *(f"{prefix}-{kind}" for kind in "abcdef" for prefix in "BI")],  # as many as published
    )
    model = Iie4mnerTagger(config).eval()
    model.span_emission = nn.Linear(16, 7)
    both_halves = closed_form("fusion_w", (32, 16))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("crf.", "span_crf.")):
                continue  # another number of labels
            if name in ("fuse_text.weight", "fuse_picture.weight"):
                parameter.copy_((both_halves[:16] if name == "fuse_text.weight" else both_halves[16:]).T)
            else:
                parameter.copy_(closed_form(published_name(name), parameter.shape))
        assert model.table is not None
        for row, start in enumerate([0, 1, 2, 1, 2, 3, 4], UNKNOWN_WORD + 1):
            model.table[row] = torch.tensor([math.cos(number + start) for number in range(4)])
    return model


def test_emissions_losses_and_paths_are_the_published_class_s() -> None:
    """Numbers of the published class on the same weights, every sub-token a token, as its CRF has them."""
    ids = torch.tensor([[2, 7, 8, 9, 10, 3, 0, 0], [2, 11, 12, 13, 14, 15, 16, 3]])
    mask = ids != 0
    places = mask.flatten().nonzero().squeeze(1)
    every = torch.arange(8).expand(2, 8)
    view = ViewBatch(
        input_ids=ids,
        attention_mask=mask.long(),
        places=places,
        rows=torch.arange(2)[:, None].expand(2, 8),
        positions=every,
        mask=mask,
        tokens=places,
        ends=every + 1,
        closings=torch.tensor([5, 7]),
        tweets=torch.arange(2),
        words=torch.tensor([[0, 2, 3, 0, 4, 0, 0, 0], [0, 5, 0, 6, 7, 8, 0, 0]]),
    )
    grid = torch.sin(0.01 * torch.arange(2048 * 49, dtype=torch.float64)).float().view(2048, 49).T.numpy()
    pictures = [PostVisual((grid,), (1, 1, 3)), PostVisual((abs(grid),), ())]
    visual = collate_visuals(pictures)
    model = published_tagger()
    emissions = model.emissions(view, visual)
    text = model._last
    assert text is not None
    spans = model.span_emission(model.spans(text.augmented, text.augmented, text.bias))

    def equal(found: Tensor, wanted: str) -> None:
        torch.testing.assert_close(found, torch.tensor([float(number) for number in wanted.split()]), rtol=0, atol=2e-5)

    equal(
        emissions[0, 1],
        "-0.77238 -1.53389 -0.07241 1.35714 0.62004 -0.96322 -0.79025 0.83805 1.20897 -0.42286 -1.57485 -0.43794 "
        "1.25257",
    )
    equal(
        emissions[1, 1],
        "-1.20259 -2.62340 -0.08455 2.44172 1.07253 -1.86409 -1.60850 1.40670 2.25810 -0.56555 -2.68191 -0.74473 "
        "2.23507",
    )
    equal(spans[0, 1], "-2.08038 -0.30472 1.78541 0.99240 -1.26818 -1.29521 0.95241")
    labels = torch.tensor([[11, 1, 4, 10, 1, 12, 0, 0], [11, 2, 10, 3, 1, 8, 9, 12]])
    untyped = torch.tensor([[5, 1, 2, 4, 1, 6, 0, 0], [5, 2, 4, 3, 1, 2, 3, 6]])
    crf, span_crf = published_crf(13, "crf"), published_crf(7, "aux_crf")
    assert -crf.log_likelihood(emissions, labels, mask).mean().item() == pytest.approx(27.45640, abs=2e-5)
    assert -span_crf.log_likelihood(spans, untyped, mask).mean().item() == pytest.approx(15.42051, abs=2e-5)
    paths, _ = crf.viterbi(emissions, mask)
    assert paths.tolist() == [[12, 3, 4, 7, 12, 12, 0, 0], [3, 3, 3, 5, 3, 3, 3, 3]]
