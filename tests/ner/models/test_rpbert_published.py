"""RpBERT against the published class: its printed numbers, with weights in closed form."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig

from ner.crf.chain import LinearChainCRF
from ner.encoder import windows
from ner.models.config import TaggerConfig
from ner.models.rpbert import RpbertTagger
from ner.views import EncodedView, ViewBatch, collate
from ner.visual import PostVisual, collate_visuals

PUBLISHED = {
    "encoder.": "encoder_t.",
    "projection.": "proj.",
    "relation_head.": "aux_head.",
    "lstm.": "rnn.",
    "head.": "head.",
    "crf.start": "crf.start_transitions",
    "crf.stop": "crf.end_transitions",
    "crf.transitions": "crf.transitions",
}
TWEETS = ([2, 5, 6, 7, 8, 9, 10, 11, 1, 3], [0, 1, 1, 2, 3, 3, 4, 5]), ([2, 12, 13, 14, 3], [0, 1, 1])
GOLD = [0, 1, 0, 3, 0, 0], [5, 6]


@pytest.fixture(scope="module", params=[True, False], ids=["packed", "padded"])
def published(request: pytest.FixtureRequest) -> RpbertTagger:
    """The published class's size, each parameter filled by a formula of its published name and of its index."""
    encoder = BertConfig(
        vocab_size=16,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=80,
    )
    config = TaggerConfig(
        system="rpbert",
        facts={"region_width": 8, "n_cells": 49, "object_labels": []},
        encoder=json.loads(encoder.to_json_string(use_diff=False)),
        tag_labels=["O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC", "ORG", "MISC") for prefix in "BI")],
    )
    model = RpbertTagger(config).double().eval()
    with torch.no_grad():
        for ours, parameter in model.named_parameters():
            begin = next(begin for begin in PUBLISHED if ours.startswith(begin))
            name = PUBLISHED[begin] + ours.removeprefix(begin)
            indices = torch.arange(parameter.numel(), dtype=torch.float64)
            values = 0.2 * torch.sin(0.7 * indices + sum(name.encode()) % 97) + name.endswith("LayerNorm.weight")
            parameter.copy_(values.view_as(parameter))
    if request.param:
        model.try_packing()
    assert model.packs == request.param
    return model


def published_batch(*tweets: int) -> ViewBatch:
    encoded = []
    for tweet in tweets:
        ids, words = TWEETS[tweet]
        positions = [1 + words.index(word) for word in range(max(words) + 1)]
        ends = [*positions[1:], len(ids) - 1]
        encoded.append(EncodedView([ids], [0] * len(positions), positions, ends, [len(ids) - 1], ""))
    return collate(encoded, 0)


def feature_map(tweet: int) -> PostVisual:
    return PostVisual((torch.sin(0.1 * torch.arange(392, dtype=torch.float64) + tweet).view(8, 49).T.numpy(),), ())


def unconstrained(model: RpbertTagger, emissions: Tensor, batch: ViewBatch, *tweets: int) -> tuple[Tensor, list[Any]]:
    """NLL and best paths under the published CRF, which knows no forbidden labels."""
    crf = LinearChainCRF(9).double()
    weights = {name: each for name, each in model.crf.state_dict().items() if "allowed" not in name}
    crf.load_state_dict(crf.state_dict() | weights)
    longest = emissions.shape[1]
    labels = torch.tensor([[*GOLD[tweet], *[0] * (longest - len(GOLD[tweet]))] for tweet in tweets])
    return -crf.log_likelihood(emissions, labels, batch["mask"]), crf.viterbi(emissions, batch["mask"])[0].tolist()


def close(found: Tensor, *printed: float) -> None:
    torch.testing.assert_close(found.flatten(), torch.tensor(printed, dtype=torch.float64), rtol=0, atol=5.1e-7)


@torch.no_grad()
def test_the_published_classes_numbers_come_out_to_their_last_digit(
    published: RpbertTagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, visual = published_batch(0), collate_visuals([feature_map(0)])
    assert visual is not None
    drop_words, words = published.drop_words, list[Tensor]()

    def seen(vectors: Tensor) -> Tensor:
        words.append(vectors)
        return drop_words(vectors)

    monkeypatch.setattr(published, "drop_words", seen)
    emissions = published.emissions(batch, visual)
    close(words[0][0, 0, :4], -1.592296, -0.638665, 0.234411, -0.437689)
    close(published.relation(batch, visual), 0.818674)
    close(
        emissions[0, 0],
        *(0.336974, 0.366556, 0.392917, 0.359110, 0.228209, 0.004182, -0.266146, -0.511229, -0.664759),
    )
    nll, paths = unconstrained(published, emissions, batch, 0)
    close(nll, 11.874583)
    assert [published.labels[label] for label in paths[0]] == ["I-PER", "B-LOC", "B-LOC", "B-LOC", "O", "O"]

    alone = published.emissions(batch)
    close(alone[0, 0], *(0.338182, 0.367460, 0.393457, 0.359249, 0.227938, 0.003519, -0.267156, -0.512520, -0.666245))
    close(unconstrained(published, alone, batch, 0)[0], 11.870203)

    ungated = RpbertTagger(published.config).double().eval()
    ungated.load_state_dict(published.state_dict())
    ungated.options = published.options.model_copy(update={"gate": "none"})
    close(unconstrained(published, ungated.emissions(batch, visual), batch, 0)[0], 11.869579)


@torch.no_grad()
def test_positions_follow_the_tweet_and_not_the_batch_as_the_published_ones_do(published: RpbertTagger) -> None:
    both, visual = published_batch(0, 1), collate_visuals([feature_map(0), feature_map(1)])
    assert visual is not None
    of_word = (0.131489, 0.113259, 0.108632, 0.062719, -0.060603, -0.257868, -0.484028, -0.670472, -0.754787)
    for batch, shown, row in (
        (both, visual, 1),
        (published_batch(1), collate_visuals([feature_map(1)]), 0),
    ):
        assert shown is not None
        emissions = published.emissions(batch, shown)
        close(published.relation(batch, shown)[row], 0.817539)
        close(emissions[row, 0], *of_word)
    nll, paths = unconstrained(published, published.emissions(both, visual), both, 0, 1)
    close(nll[1], 4.507391)
    assert [published.labels[label] for label in paths[1][:2]] == ["I-PER", "B-ORG"]

    # The published regions stand behind the padding of the batch: as though each tweet closed where the longest does.
    both["closings"].fill_(both["input_ids"].shape[1] - 1)
    emissions = published.emissions(both, visual)
    close(published.relation(both, visual)[1], 0.817644)
    close(
        emissions[1, 0],
        *(0.131354, 0.113333, 0.108909, 0.063180, -0.059988, -0.257139, -0.483235, -0.669667, -0.754023),
    )
    close(unconstrained(published, emissions, both, 0, 1)[0].mean(), 8.190775)


@torch.no_grad()
def test_a_word_is_the_mean_of_its_sub_tokens(published: RpbertTagger) -> None:
    batch = published_batch(0)
    vectors = windows.token_vectors(batch, published._of_text)
    hidden = published.encoder(input_ids=batch["input_ids"]).last_hidden_state[0]
    torch.testing.assert_close(vectors[0, 1], hidden[2:4].mean(0))
    torch.testing.assert_close(vectors[0, 2], hidden[4])
