"""The base of the systems: another system, with pictures as tensors and a loss of its own, is trained and loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ner.bioes import scheme_labels, to_scheme
from ner.decoding import decode_labels
from ner.models import losses
from ner.models.base import TaggerModel
from ner.models.config import TaggerConfig
from ner.models.folder import load_tagger, load_tokenizer, view_encoder
from ner.models.registry import SYSTEMS
from ner.training.sampler import Example, LengthGroupedSampler, collate_examples
from ner.views import ViewBatch
from ner.visual import PostVisual, VisualBatch
from pipeline.settings.training import TrainParams
from tests.ner.conftest import ambiguous_views, small_params


class Toy(TaggerModel):
    """Adds the picture's mean region to every token, and learns to tell apart tweets with and without pictures."""

    def add_layers(self, config: TaggerConfig) -> None:
        width = self.encoder.config.hidden_size
        self.regions, self.head, self.pictured = (
            nn.Linear(6, width),
            nn.Linear(width, len(self.labels)),
            nn.Linear(6, 1),
        )

    def emissions(self, view: ViewBatch, visual: VisualBatch | None = None) -> Tensor:
        hidden = self.encoder(view["input_ids"], view["attention_mask"]).last_hidden_state
        vectors = self.drop_words(hidden[view["rows"], view["positions"]])
        if visual is not None:
            seen = visual["regions"].mean(1) * visual["present"].unsqueeze(1)
            self._guess = self.pictured(seen).squeeze(1), visual["present"].float()
            vectors = vectors + self.regions(seen).unsqueeze(1)
        return self.head(vectors)

    def extra_losses(
        self, labels: Tensor, mask: Tensor, text_only: ViewBatch | None, cross_modal: ViewBatch | None
    ) -> dict[str, Tensor]:
        if cross_modal is None:
            return {}
        return {"pictured": 0.5 * nn.functional.binary_cross_entropy_with_logits(*self._guess)}

    def parameter_groups(self, params: TrainParams) -> list[dict[str, Any]]:
        own = [*self.regions.parameters(), *self.pictured.parameters()]
        groups = super().parameter_groups(params)
        for group in groups:
            group["params"] = [one for one in group["params"] if all(one is not other for other in own)]
        return [*groups, {"params": own, "lr": 0.01}]


@pytest.mark.parametrize("small", [True, False])
def test_a_system_of_ones_own_is_trained_saved_and_loaded(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    if not small:
        monkeypatch.setattr(losses, "SMALL", 0)
    params = small_params(xlm_r_folder, word_dropout=0.0)
    posts = ambiguous_views(64, seed=2)
    torch.manual_seed(1)
    model = Toy.from_encoder(xlm_r_folder, scheme_labels(post.labels or [] for post in posts), params)
    model.config.system = "toy"
    tokenizer = load_tokenizer(xlm_r_folder)
    views = view_encoder(tokenizer, model.config)
    encoded = views.encode(posts, with_context=False)
    # The picture shows what the text cannot say: whether the name is a person's or a place's.
    examples = [
        Example(
            {"text_only": view, "cross_modal": replace(view, visual=picture(1.0 if "court" in post.context else -1.0))},
            [model.labels.index(label) for label in to_scheme(post.labels or [])],
        )
        for view, post in zip(encoded, posts, strict=True)
    ]
    optimizer = torch.optim.AdamW(model.parameter_groups(params), lr=params.learning_rate)
    assert [group["lr"] for group in optimizer.param_groups] == [3e-3, 3e-3, 3e-3, 3e-3, 0.05, 0.01]
    order = LengthGroupedSampler([example.width for example in examples], 16, seed=1)
    history = []
    for epoch in range(8):
        order.set_epoch(epoch)
        places = list(order)
        for start in range(0, len(places), 16):
            some = places[start : start + 16]
            batch = collate_examples([examples[place] for place in some], views.pad_id, model.training_views)
            outputs = model(**batch)
            outputs["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            history.append({name: float(value.detach()) for name, value in outputs.items()})
    assert set(history[0]) == {"loss", "nll_text_only", "nll_cross_modal", "alignment", "pictured"}
    assert history[-1]["nll_cross_modal"] < 0.2 < history[-1]["nll_text_only"]
    assert history[-1]["pictured"] < history[0]["pictured"]

    model.save_pretrained(tmp_path / "toy")
    tokenizer.save_pretrained(tmp_path / "toy")
    monkeypatch.setitem(SYSTEMS, "toy", Toy)
    loaded, _ = load_tagger(tmp_path / "toy")
    assert isinstance(loaded, Toy)
    model.eval()
    assert decode_labels(loaded, encoded, views.pad_id, 8) == decode_labels(model, encoded, views.pad_id, 8)


def picture(shown: float) -> PostVisual:
    return PostVisual((np.full((4, 6), shown, np.float32),), ())


class Noting(Toy):
    """Notes which views its terms were asked for with."""

    asked: list[tuple[bool, bool]]

    def extra_losses(
        self, labels: Tensor, mask: Tensor, text_only: ViewBatch | None, cross_modal: ViewBatch | None
    ) -> dict[str, Tensor]:
        self.asked.append((text_only is not None, cross_modal is not None))
        return {"mean": self.head.weight.square().mean() + self.head.bias.square().mean()}


@pytest.mark.parametrize("one_graph", [True, False])
def test_terms_of_a_systems_own_are_asked_for_with_the_views_of_their_graph(
    xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch, one_graph: bool
) -> None:
    monkeypatch.setattr(losses, "SMALL", 0)
    monkeypatch.setattr(Noting, "one_graph", one_graph)
    posts = ambiguous_views(4, seed=2)
    model = Noting.from_encoder(xlm_r_folder, scheme_labels([["B-PER", "B-LOC"]]), small_params(xlm_r_folder)).eval()
    model.asked = []
    views = view_encoder(load_tokenizer(xlm_r_folder), model.config)
    encoded = views.encode(posts, with_context=False)
    examples = [Example({"text_only": view, "cross_modal": view}, [0] * len(view)) for view in encoded]
    outputs = model(**collate_examples(examples, views.pad_id, model.training_views))
    outputs["loss"].backward()
    wanted = sum(float(parameter.detach().square().mean()) for parameter in model.head.parameters())
    assert model.asked == ([(True, True)] if one_graph else [(False, True), (True, False)])
    assert outputs["mean"].item() == pytest.approx(wanted * len(model.asked))
