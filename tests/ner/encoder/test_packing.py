"""Encoder passes without padding against padded ones, and the dropout that goes with them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ner.encoder import packing
from ner.encoder.dropout import Dropout, dropout, replace_dropouts
from ner.views import EncodedView, ViewBatch, collate

PAD = 1
SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
}


def encoder(model_type: str) -> PreTrainedModel:
    torch.manual_seed(3)
    return AutoModel.from_config(AutoConfig.for_model(model_type, **SIZES)).eval()


def batch(lengths: list[list[int]]) -> ViewBatch:
    """Tweets of random sub-tokens; a tweet has the lengths of its windows, its tokens stand anywhere in them."""
    views = []
    for windows in lengths:
        rows = [row for row, length in enumerate(windows) for _ in range(length)]
        positions = [place for length in windows for place in range(length)]
        ids = [torch.randint(2, 50, (length,)).tolist() for length in windows]
        ends = [position + 1 for position in positions]
        views.append(EncodedView(ids, rows, positions, ends, [length - 1 for length in windows], ""))
    return collate(views, PAD)


def padded(model: PreTrainedModel, view: ViewBatch) -> Tensor:
    """Hidden states of the tokens' first sub-tokens [B, L, hidden], by the encoder's own pass; zeros on padding."""
    hidden = model(input_ids=view["input_ids"], attention_mask=view["attention_mask"]).last_hidden_state
    return hidden[view["rows"], view["positions"]] * view["mask"].unsqueeze(-1)


PACKED = ("bert", "camembert", "electra", "roberta", "xlm-roberta")


@pytest.mark.parametrize("model_type", PACKED)
def test_a_packed_pass_gives_the_padded_ones_states_and_gradients(model_type: str) -> None:
    model = encoder(model_type)
    views = [batch([[4], [9, 9, 2], [1], [6]]), batch([[4], [20], [1], [3, 3]])]
    wanted = torch.cat([padded(model, view) for view in views])
    upstream = torch.randn_like(wanted)
    named = {name: parameter for name, parameter in model.named_parameters() if "pooler" not in name}
    of_padded = torch.autograd.grad(wanted, list(named.values()), upstream, allow_unused=True)

    assert packing.try_out(model)
    found = packing.encode_packed(model, views)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    of_packed = torch.autograd.grad(found, list(named.values()), upstream, allow_unused=True)
    for name, ours, theirs in zip(named, of_packed, of_padded, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)

    # Prepared for packing, it still takes padded batches, whole or for some places alone.
    [whole, _] = [padded(model, view) for view in views]
    torch.testing.assert_close(whole, wanted[:4], rtol=1e-4, atol=1e-5)
    places = views[0]["rows"] * views[0]["input_ids"].shape[1] + views[0]["positions"]
    with packing.wanted_alone(places.flatten()):
        some = model(input_ids=views[0]["input_ids"], attention_mask=views[0]["attention_mask"]).last_hidden_state
    some = some.view_as(whole) * views[0]["mask"].unsqueeze(-1)
    torch.testing.assert_close(some, whole, rtol=1e-4, atol=1e-5)


def test_threads_do_not_meet_in_a_pass() -> None:
    model = encoder("bert")
    packing.enable(model)
    views = [batch([[length]]) for length in range(2, 32)]
    with torch.no_grad(), ThreadPoolExecutor(4) as threads:
        alone = [packing.encode_packed(model, [view]) for view in views]
        together = list(threads.map(torch.no_grad()(lambda view: packing.encode_packed(model, [view])), views))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_attention_dropout_without_padding_is_right_on_average() -> None:
    model = encoder("bert")
    packing.enable(model)
    views = [batch([[3], [6]])]
    mask = views[0]["mask"]
    exact = packing.encode_packed(model, views)[mask]
    for layer in model.encoder.layer:
        layer.attention.self.dropout.p = 0.3
        layer.attention.self.train()
    torch.manual_seed(5)
    with torch.no_grad():
        draws = torch.stack([packing.encode_packed(model, views)[mask] for _ in range(300)])
    assert draws.std(0).min() > 0
    assert (draws.mean(0) - exact).abs().max() < 0.1
    assert (draws.mean(0) - exact).abs().mean() < 3 * draws.std(0).mean() / 300**0.5


OTHERS: dict[str, dict[str, object]] = {
    "a DeBERTa": {"model_type": "deberta-v2"},
    "a causal BERT": {"model_type": "bert", "is_decoder": True},
    "a Longformer": {"model_type": "longformer", "attention_window": 8},
    "an MPNet": {"model_type": "mpnet"},
    "an ALBERT": {"model_type": "albert", "embedding_size": 8},
}


@pytest.mark.parametrize("name", OTHERS)
def test_an_encoder_that_cannot_be_packed_is_left_alone(name: str) -> None:
    torch.manual_seed(3)
    model = AutoModel.from_config(AutoConfig.for_model(**SIZES | OTHERS[name]))
    before = model.config._attn_implementation
    ids = torch.randint(2, 50, (2, 7))
    [wanted] = [model.eval()(input_ids=ids).last_hidden_state]
    assert not packing.try_out(model.train())
    assert model.training
    assert model.config._attn_implementation == before
    assert not any(module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(model.eval()(input_ids=ids).last_hidden_state, wanted)


def test_a_kind_that_nobody_has_named_is_packed_where_it_can_be() -> None:
    model = encoder("data2vec-text")
    views = [batch([[4], [9, 9, 2]])]
    wanted = padded(model, views[0])
    assert packing.try_out(model)
    torch.testing.assert_close(packing.encode_packed(model, views), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_zeroes_its_share_and_scales_the_rest(dtype: torch.dtype, p: float) -> None:
    torch.manual_seed(1)
    values = torch.full((1001, 203), 2.0, dtype=dtype, requires_grad=True)
    dropped = dropout(values, p)
    gone = dropped == 0
    n = values.numel()
    assert abs(gone.double().mean().item() - p) < 4 * (p * (1 - p) / n) ** 0.5
    assert dropped.dtype == dtype
    torch.testing.assert_close(
        dropped[~gone],
        torch.full_like(dropped[~gone], 2 / (1 - p)),
        rtol=1e-2 if dtype == torch.bfloat16 else 1e-4,
        atol=0.0,
    )
    # Neighbours are independent of each other, four of them being one draw of 64 bits.
    for lag in range(1, 5):
        flat = gone.flatten().double()
        together = (flat[:-lag] * flat[lag:]).mean().item()
        assert abs(together - p * p) < 5 * p / n**0.5
    upstream = torch.randn_like(values)
    (gradient,) = torch.autograd.grad(dropped, values, upstream)
    torch.testing.assert_close(gradient, upstream * dropped.detach() / 2)


def test_dropout_follows_the_seed_and_rests_outside_of_training() -> None:
    values = torch.randn(5, 7)

    def seeded() -> Tensor:
        torch.manual_seed(2)
        return dropout(values, 0.5)

    assert seeded().equal(seeded())
    assert not dropout(values, 0.5).equal(seeded())
    assert dropout(values, 0.5, training=False).equal(values)
    assert dropout(values, 0.0).equal(values)
    assert not dropout(values, 1.0).any()
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)


def test_every_dropout_of_an_encoder_is_replaced_and_no_weight_renamed() -> None:
    model = encoder("bert")
    names, count = set(model.state_dict()), sum(type(module) is nn.Dropout for module in model.modules())
    replace_dropouts(model)
    assert set(model.state_dict()) == names
    assert not any(type(module) is nn.Dropout for module in model.modules())
    assert sum(isinstance(module, Dropout) for module in model.modules()) == count > 0
