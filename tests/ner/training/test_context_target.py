"""Contexts as something to learn: what the text-only view learns of them, of which posts; nothing of it is saved."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ner.bioes import scheme_labels
from ner.models import losses
from ner.models.context_target import OPEN, SILENT, PostTarget, collate_targets, inputs_of
from ner.models.folder import load_tokenizer, view_encoder
from ner.models.registry import SYSTEMS, tagger_class
from ner.tagger import Tagger
from ner.training import examples
from ner.training.context_vectors import ContextVectors
from ner.training.sampler import Example, collate_examples
from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.core.store import Store
from pipeline.settings.training import TrainParams
from tests.ner.conftest import ambiguous_views, pictured, small_params, synthetic_visuals, system_params
from tests.ner.training import test_systems
from tests.ner.training.test_processes import launch
from tests.ner.training.test_run import assert_same, first_step, stopped, weights

GRADIENTS = """
import os, sys, torch, pytest
from pathlib import Path
from tests.ner.training.test_context_target import gradients
torch.set_num_threads(1)
encoder, folder = map(Path, sys.argv[1:])
with pytest.MonkeyPatch.context() as patch:
    found = gradients(encoder, folder / os.environ["RANK"], 1, patch)
torch.save(found, folder / f"gradients-{os.environ['RANK']}.pt")
"""

LABELS = scheme_labels([["B-PER", "B-LOC"]])
TYPES = {"PER": ["person"], "LOC": ["place"], "O": ["verb"]}
SPANS = {"weight": 0.7, "recall": 0.9, "types": TYPES}


def known(posts: list[View]) -> list[View]:
    """Posts whose contexts say what their names are."""
    said = {"photo of court": "1. Jordan (person) 2. Paris Jordan (person)", "photo of desert": "1. Jordan (place)"}
    return [replace(post, context=said[post.context]) for post in posts]


TRAIN, DEV = pictured(known(ambiguous_views(8, seed=0))), pictured(known(ambiguous_views(6, seed=1)))
OTHERS = [replace(post, id=f"u{post.id}", labels=None) for post in pictured(known(ambiguous_views(11, seed=2)))]


def params(encoder: Path, system: str = "ita", spans: dict[str, Any] | None = None, **changes: Any) -> TrainParams:
    target = {"spans": SPANS | (spans or {}), "embedding": {"weight": changes.pop("embedding", 0.6)}}
    return system_params(encoder, system, context_target=target, **changes)


@contextmanager
def vectors(settings: TrainParams, folder: Path) -> Iterator[ContextVectors]:
    with Store.open(folder / "store") as store:
        yield ContextVectors(settings, store, settings.encoder, "tiny")


def run(settings: TrainParams, folder: Path, **changes: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    data = {"train": TRAIN, "dev": DEV, "unlabelled": OTHERS}
    with vectors(settings, folder.parent) as contexts:
        return test_systems.run(settings, folder, **{**data, "contexts": contexts, **changes})


def made(
    encoder: Path, folder: Path, settings: TrainParams, train: list[View], others: list[View]
) -> tuple[Any, examples.Examples, Any]:
    """A tagger with nothing learned yet, examples of posts, and what makes batches of them."""
    torch.manual_seed(2)
    visuals, kind = synthetic_visuals(folder), tagger_class(settings.model)
    facts = kind.facts_of(settings, [*train, *others], visuals)
    model: Any = kind.from_encoder(encoder, LABELS, settings, facts=facts).eval()
    views = view_encoder(load_tokenizer(encoder), model.config)
    if model.reads_visual:
        views.show(visuals, model.config.facts)

    def batch(some: list[Example]) -> dict[str, Any]:
        return collate_examples(some, views.pad_id, model.training_views)

    with vectors(settings, folder) as contexts:
        describe = partial(contexts.of, device=torch.device("cpu"))
        return model, examples.make(settings, model, views, train, others, describe=describe), batch


def gradient(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def test_spans_have_labels_and_other_words_leave_all_open(xlm_r_folder: Path, tmp_path: Path) -> None:
    context = "1. Paris Jordan (person) 2. love (verb) 3. court (building)"
    post = View("1", ["Paris", "Jordan", "love", "the", "court"], ["O"] * 5, context)
    silent, listed = replace(post, context="photo of court"), replace(post, context="1. Oprah (person)")
    _, found, batch = made(xlm_r_folder, tmp_path, params(xlm_r_folder), [post, silent, listed], [])
    index = {label: place for place, label in enumerate(LABELS)}
    said = [index["B-PER"], index["E-PER"], index["O"], SILENT, OPEN]
    assert [example.target and example.target.labels for example in found.labelled] == [said, None, [SILENT] * 5]
    target = batch(found.labelled)["target"]
    assert target["named"].tolist() == [True, False, True]
    assert target["labels"].tolist() == [said, [SILENT] * 5, [SILENT] * 5]


def test_its_loss_is_that_of_a_reader_of_such_recall(xlm_r_folder: Path, tmp_path: Path) -> None:
    """Against the enumeration: Σ over label sequences of p(labels | text) · p(what the context names | labels)."""
    model, _, _ = made(xlm_r_folder, tmp_path, params(xlm_r_folder), TRAIN[:3], [])
    layers, mask = model.context_layers, torch.tensor([[True, True, True], [True, True, False], [True, True, False]])
    states = torch.randn(3, 3, layers.emission.in_features)
    per = LABELS.index("S-PER")
    said = [PostTarget([per, SILENT, OPEN]), PostTarget([SILENT, SILENT]), PostTarget(None)]
    said = [replace(each, vector=np.zeros(32, np.float16)) for each in said]
    loss = layers.losses(states, mask, collate_targets(said, [3, 2, 2]))["context_spans"]
    emissions = layers.emission(states)
    n = len(LABELS)
    paths = torch.cartesian_prod(*[torch.arange(n)] * 3)
    log_p = layers.crf.log_likelihood(emissions[:1].expand(len(paths), -1, -1), paths, mask[:1].expand(len(paths), -1))
    passed_over = torch.where(paths[:, 1] == LABELS.index("O"), 1.0, 0.1)
    first = (log_p.exp() * (paths[:, 0] == per) * passed_over).sum().log()
    paths = torch.cartesian_prod(*[torch.arange(n)] * 2)
    log_p = layers.crf.log_likelihood(
        emissions[1:2, :2].expand(len(paths), -1, -1), paths, mask[1:2, :2].expand(len(paths), -1)
    )
    second = (log_p.exp() * torch.where(paths == LABELS.index("O"), 1.0, 0.1).prod(1)).sum().log()
    torch.testing.assert_close(loss, -(first + second) / 3)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_encoder_learns_from_contexts_of_all_posts_in_the_text_only_view(
    xlm_r_folder: Path, tmp_path: Path, system: str, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "SMALL", 10**9 if small else 0)
    settings = params(xlm_r_folder, system)
    model, found, batch = made(xlm_r_folder, tmp_path, settings, TRAIN[:4], OTHERS[:6])
    labelled, others = batch(found.labelled), batch(found.unlabelled)
    outputs = model(**labelled, unlabelled=others)
    moved = gradient(model, outputs["loss"])
    weights = model.context_layers.weights
    model.context_layers.weights = dict.fromkeys(weights, 0.0)
    rest = gradient(model, model(**labelled, unlabelled=others)["loss"])
    assert all(not gradient.any() for name, gradient in rest.items() if name.startswith("context_layers."))
    # By itself, over text-only views of all of them at once.
    every = collate_examples([*found.labelled, *(replace(one, labels=[]) for one in found.unlabelled)], 1)
    with inputs_of(model.emission_layer) as given:
        model.emissions(every["text_only"])
    terms = model.context_layers.losses(given[0], every["text_only"]["mask"], every["target"])
    assert terms.keys() == weights.keys() == {"context_spans", "context_embedding"}
    alone = gradient(model, 0.7 * terms["context_spans"] + 0.6 * terms["context_embedding"])
    assert all(outputs[name].item() == pytest.approx(term.item(), rel=1e-5) for name, term in terms.items())
    assert max(float(each.abs().max()) for name, each in alone.items() if name.startswith("encoder.")) > 1e-3
    own = {f"context_layers.{name}" for name, _ in model.context_layers.named_parameters()}
    assert own <= moved.keys()
    for name, each in moved.items():
        wanted = rest.get(name, torch.zeros_like(each)) + alone.get(name, torch.zeros_like(each))
        torch.testing.assert_close(each, wanted, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "system", ["ita", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rpbert", "iie4mner"))]
)
def test_a_stopped_training_goes_on_to_the_same_tagger_which_has_nothing_of_it(
    xlm_r_folder: Path, tmp_path: Path, system: str
) -> None:
    settings = params(xlm_r_folder, system, epochs=2)
    whole = run(settings, tmp_path / "whole")
    with stopped(epoch=2):
        run(settings, tmp_path / "cut")
    assert run(settings, tmp_path / "cut") == whole
    found = weights(tmp_path / "whole")
    assert_same(found, weights(tmp_path / "cut"))
    assert not any("context" in name for name in found)
    assert json.loads((tmp_path / "whole/tagger/config.json").read_text(encoding="utf-8"))["context_target"] is None


def test_it_is_learned_and_the_saved_tagger_finds_what_it_found(xlm_r_folder: Path, tmp_path: Path) -> None:
    context = "1. Jordan (person) 2. Paris (place)"
    post = View("1", ["love", "Jordan", "in", "Paris"], ["O", "B-PER", "O", "B-LOC"], context)
    other = View("2", ["the", "court", "in", "Paris"], ["O", "O", "O", "B-LOC"], "- Paris (place)")
    settings = params(xlm_r_folder, views="text_only", epochs=6)
    result = run(settings, tmp_path, train=[post, other] * 8, dev=[post, other], unlabelled=[])
    assert result["dev"]["f1_text_only"] == 1.0
    found = Tagger.load(tmp_path / "tagger", "cpu").predict([post, other])
    assert [one.predicted for one in found] == [post.labels, other.labels]
    for name, left in (("spans", 0.3), ("embedding", 0.8)):
        curve = (tmp_path / f"curves/plots/metrics/train/context_{name}.tsv").read_text(encoding="utf-8").split()
        assert float(curve[-1]) < left * float(curve[3])


def test_off_it_changes_no_weight(xlm_r_folder: Path, tmp_path: Path) -> None:
    off = run(params(xlm_r_folder, spans={"weight": 0.0}, embedding=0.0, epochs=1), tmp_path / "off")
    assert off == run(system_params(xlm_r_folder, "ita", epochs=1), tmp_path / "default")
    assert_same(weights(tmp_path / "off"), weights(tmp_path / "default"))


def test_text_alone_learns_from_the_contexts_of_posts_without_labels(xlm_r_folder: Path, tmp_path: Path) -> None:
    settings = params(xlm_r_folder, views="text_only", epochs=1)
    assert settings.unlabelled_views == ["text_only"]
    assert run(settings, tmp_path / "all")["unlabelled"] == {"posts": 11}
    assert "unlabelled" not in run(settings, tmp_path / "labelled", unlabelled=[])
    one, other = weights(tmp_path / "all"), weights(tmp_path / "labelled")
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_contexts_of_labelled_posts_teach_nothing_where_those_of_the_others_are_asked_for(
    xlm_r_folder: Path, tmp_path: Path
) -> None:
    target = {"posts": "unlabelled", "spans": SPANS, "embedding": {"weight": 0.6}}
    settings = system_params(xlm_r_folder, "ita", context_target=target)
    model, found, batch = made(xlm_r_folder, tmp_path, settings, TRAIN[:4], OTHERS[:4])
    for examples_, teach in ((found.labelled, False), (found.unlabelled, True)):
        terms = model(**{**batch(examples_), "labels": torch.zeros_like(batch(examples_)["target"]["labels"])})
        assert (terms["context_spans"] > 0) == (terms["context_embedding"] > 0) == teach


def gradients(encoder: Path, folder: Path, parts: int, patch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Those of a step of eight labelled posts, half of which have no context, and eight others, without dropout."""
    train = [replace(post, context=post.context if n % 2 else "") for n, post in enumerate(TRAIN)]
    posts = {"train": train, "unlabelled": OTHERS[:8]}
    changes = {"context_target": {"spans": SPANS, "embedding": {"weight": 0.6}}}
    with vectors(small_params(encoder), folder.parent) as contexts:
        return first_step(encoder, folder, parts, patch, changes, **posts, contexts=contexts)


def test_gradients_accumulated_in_parts_equal_those_of_one(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, four = (gradients(xlm_r_folder, tmp_path, parts, monkeypatch) for parts in (1, 4))
    for gradient, other in zip(one, four, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow  # two processes are started
def test_two_processes_have_the_gradients_of_one(
    xlm_r_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS, encoding="utf-8")
    process = launch(script, xlm_r_folder, tmp_path)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    alone = gradients(xlm_r_folder, tmp_path / "alone", 1, monkeypatch)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        for gradient, other in zip(together, alone, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_learned_is_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="context_target: is learned by the text-only view"):
        params(xlm_r_folder, views="cross_modal")
    with pytest.raises(UserError, match="types: found ORG; expected O, or types of the data set, LOC, PER"):
        run(params(xlm_r_folder, spans={"types": TYPES | {"ORG": ["team"]}}), tmp_path)
    with pytest.raises(UserError, match=r"no context of the 8 posts names a span of its post.*\(person\)"):
        run(params(xlm_r_folder), tmp_path, train=pictured(ambiguous_views(8, seed=0)), unlabelled=[])
    alike = [replace(post, context="photo") for post in TRAIN]
    blank, settings = [replace(post, context=" ") for post in OTHERS], params(xlm_r_folder, spans={"weight": 0.0})
    with pytest.raises(UserError, match="8 of 19 posts have a context, and no two contexts differ"):
        run(settings, tmp_path, train=alike, unlabelled=blank)
