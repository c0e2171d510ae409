"""ITA: its loss against a direct computation, the alignment forms, its folder."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ner.bioes import allowed_transitions, scheme_labels, to_scheme
from ner.crf.chain import LinearChainCRF
from ner.models import losses
from ner.models.alignment import FORMS, TwoViews
from ner.models.folder import load_tagger, load_tokenizer, view_encoder
from ner.models.ita import ItaTagger
from ner.models.pretrained import longest_window
from ner.training.sampler import Example, collate_examples
from ner.views import EncodedView, ViewBatch, collate, moved
from pipeline.core.errors import UserError
from tests.ner.conftest import ambiguous_views, small_params
from tests.ner.crf.test_chain import Enumeration


def tagger(folder: Path, **changes: object) -> ItaTagger:
    torch.manual_seed(1)
    labels = scheme_labels([["B-PER", "B-LOC"]])
    return ItaTagger.from_encoder(folder, labels, small_params(folder, **changes), local_files_only=True)


def inputs(model: ItaTagger, folder: Path, n: int = 6) -> dict[str, Any]:
    posts = ambiguous_views(n, seed=5)
    encoder = view_encoder(load_tokenizer(folder, local_files_only=True), model.config)
    text_only, cross_modal = (encoder.encode(posts, with_context=with_context) for with_context in (False, True))
    labels = [[model.labels.index(label) for label in to_scheme(post.labels or [])] for post in posts]
    examples = [
        Example({"text_only": one, "cross_modal": other}, some)
        for one, other, some in zip(text_only, cross_modal, labels, strict=True)
    ]
    return collate_examples(examples, encoder.pad_id)


def both_views(crf: LinearChainCRF, teacher: Tensor, student: Tensor, mask: Tensor) -> TwoViews:
    of_teacher, of_student = (crf.log_partition_and_marginals(emissions, mask)[1] for emissions in (teacher, student))
    return TwoViews(teacher, student, of_teacher, of_student, mask)


def softened(log_marginals: Tensor, temperature: float) -> Tensor:
    powers = log_marginals.exp() ** (1 / temperature)
    return powers / powers.sum(-1, keepdim=True)


@pytest.mark.parametrize(("detach", "small"), [(True, True), (True, False), (False, False)])
def test_two_view_loss_equals_a_direct_computation(
    xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch, detach: bool, small: bool
) -> None:
    """Loss and gradient against ITA's formula written out, its marginals by autograd of log Z, post by post.

    Both views in one graph; or, where a batch is not small and the teacher is detached, one after the other.
    """
    if not small:
        monkeypatch.setattr(losses, "SMALL", 0)
    model = (
        tagger(
            xlm_r_folder,
            detach_teacher=detach,
            temperature=3.0,
            weights={"text_only": 0.9, "cross_modal": 0.4, "alignment": 0.7},
        )
        .eval()
        .double()
    )
    model.crf.exclude_forbidden = False
    batch = inputs(model, xlm_r_folder)
    outputs = model(**batch)
    found = torch.autograd.grad(outputs["loss"], list(model.parameters()))

    student, teacher = model.emissions(batch["text_only"]), model.emissions(batch["cross_modal"])
    mask = batch["text_only"]["mask"]
    nll_text_only = nll_cross_modal = divergence = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(mask.sum(1).tolist()):
        marginals = []
        for emissions in (teacher, student):
            every = Enumeration(model.crf, emissions[row], length)
            gold = (every.paths == batch["labels"][row, :length]).all(1)
            if emissions is teacher:
                nll_cross_modal = nll_cross_modal - every.log_probability(gold)
            else:
                nll_text_only = nll_text_only - every.log_probability(gold)
            marginals.append(
                torch.stack(
                    [
                        torch.stack(
                            [every.log_probability(every.paths[:, t] == label) for label in range(len(model.labels))]
                        )
                        for t in range(length)
                    ]
                )
            )
        p, q = softened(marginals[0], 3.0), softened(marginals[1], 3.0)
        p = p.detach() if detach else p
        divergence = divergence + (p * (p.log() - q.log())).sum()
    wanted = (0.9 * nll_text_only + 0.4 * nll_cross_modal + 0.7 * 9.0 * divergence) / len(mask)
    torch.testing.assert_close(outputs["loss"], wanted)
    torch.testing.assert_close(outputs["alignment"], divergence.detach() / len(mask))
    for gradient, direct in zip(found, torch.autograd.grad(wanted, list(model.parameters())), strict=True):
        torch.testing.assert_close(gradient, direct, rtol=1e-6, atol=1e-9)


def test_published_definition_on_a_case_worked_out_by_hand() -> None:
    """One token, two labels O and S-X of probabilities 0.8/0.2 (teacher) and 0.5/0.5 (student), T = 2.

    Square roots: 0.8944 and 0.4472, normalised 2/3 and 1/3; the student's stay 1/2. KL = 2/3 ln(4/3) + 1/3 ln(2/3).
    """
    crf = LinearChainCRF(2)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.zero_()
    teacher, student = torch.tensor([[[math.log(0.8), math.log(0.2)]]]), torch.zeros(1, 1, 2)
    mask = torch.ones(1, 1, dtype=torch.bool)
    views = both_views(crf, teacher, student, mask)
    wanted = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert FORMS["marginal"](crf, views, 2.0).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_alignment_forms_equal_enumeration(form: str, temperature: float) -> None:
    torch.manual_seed(0)
    labels = ["O", "B-X", "I-X", "E-X", "S-X"]
    crf = LinearChainCRF(5, allowed_transitions(labels)).double()
    teacher, student = torch.randn(2, 2, 4, 5, dtype=torch.float64) * 2
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    found = FORMS[form](crf, both_views(crf, teacher, student, mask), temperature)
    for row, length in enumerate((4, 2)):
        both = [Enumeration(crf, emissions[row], length) for emissions in (teacher, student)]
        if form == "sequence":
            p, q = (torch.softmax(every.scores / temperature, 0) for every in both)
        elif form == "emission":
            p, q = (torch.softmax(emissions[row, :length] / temperature, -1) for emissions in (teacher, student))
        else:
            p, q = (
                softened(
                    torch.stack(
                        [
                            torch.stack([every.log_probability(every.paths[:, t] == label) for label in range(5)])
                            for t in range(length)
                        ]
                    ),
                    temperature,
                )
                for every in both
            )
        wanted = torch.where(p > 0, p * (p.log() - q.log()), 0.0).sum()
        torch.testing.assert_close(found[row], wanted)
        assert wanted > 0


def test_equal_views_have_no_divergence(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder).eval()
    batch = inputs(model, xlm_r_folder)
    batch["cross_modal"] = batch["text_only"]
    assert model(**batch)["alignment"].abs() < 1e-6


def test_without_contexts_both_views_are_two_dropout_passes_that_the_alignment_draws_together(
    xlm_r_folder: Path,
) -> None:
    """R-Drop (Wu et al., NeurIPS 2021)."""
    model = tagger(xlm_r_folder, alignment="sequence", temperature=1.0, detach_teacher=False).train()
    batch = inputs(model, xlm_r_folder)
    batch["cross_modal"] = batch["text_only"]
    first, second = (float(model(**batch)["alignment"]) for _ in range(2))
    assert first > 1e-3
    assert second > 1e-3
    assert first != second


def test_a_detached_teacher_is_not_moved_by_the_alignment(xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"text_only": 0.0, "cross_modal": 0.0, "alignment": 1.0}
    for detach in (True, False):
        model = tagger(xlm_r_folder, weights=weights, detach_teacher=detach).eval()
        batch, seen = inputs(model, xlm_r_folder), list[Tensor]()
        emissions_of = model.two_view_emissions

        def keep(
            *views: ViewBatch,
            seen: list[Tensor] = seen,
            emissions_of: Callable[..., tuple[Tensor, Tensor]] = emissions_of,
        ) -> tuple[Tensor, ...]:
            seen += emissions_of(*views)
            for emissions in seen:
                emissions.retain_grad()
            return tuple(seen)

        monkeypatch.setattr(model, "two_view_emissions", keep)
        model(**batch)["loss"].backward()
        student, teacher = (emissions.grad for emissions in seen)
        assert student is not None
        assert student.abs().sum() > 0
        assert (teacher is None or not teacher.any()) == detach


@pytest.mark.parametrize("form", [*FORMS, "none"])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_one_view_after_the_other_has_the_gradients_of_both_at_once(
    xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch, form: str, bfloat16: bool
) -> None:
    found = []
    for small in (0, 2**20):
        monkeypatch.setattr(losses, "SMALL", small)
        model = tagger(xlm_r_folder, alignment=form).eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = model(**inputs(model, xlm_r_folder), alignment_scale=0.6)
        outputs["loss"].backward()
        found.append((outputs, [parameter.grad for parameter in model.parameters()]))
    rtol, atol = (2e-2, 2e-2) if bfloat16 else (1e-4, 1e-5)
    assert found[0][0].keys() == found[1][0].keys()
    torch.testing.assert_close(*found, rtol=rtol, atol=atol)


def test_a_two_view_step_takes_little_more_memory_than_the_heavier_view(
    xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "SMALL", 0)
    model = tagger(xlm_r_folder).train()
    batch = inputs(model, xlm_r_folder, n=64)
    batch["text_only"] = batch["cross_modal"]  # the heaviest student that there can be

    def step(views: str) -> None:
        model.config.views = views
        model(**batch)["loss"].backward()
        model.zero_grad()

    assert peak_bytes(lambda: step("both")) <= 1.25 * peak_bytes(lambda: step("cross_modal"))
    monkeypatch.setattr(ItaTagger, "one_graph", True)
    assert peak_bytes(lambda: step("both")) >= 1.75 * peak_bytes(lambda: step("cross_modal"))


def peak_bytes(action: Callable[[], None]) -> int:
    """What torch held of memory at most in an action, beyond what it held before."""
    with torch.profiler.profile(profile_memory=True) as profile:
        action()
    held = peak = 0
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("mode", ["text_only", "cross_modal"])
def test_a_single_view_is_trained_by_its_likelihood_alone(xlm_r_folder: Path, mode: str) -> None:
    model = tagger(xlm_r_folder, views=mode).eval()
    batch = inputs(model, xlm_r_folder)
    view = batch[mode]
    outputs = model(**{mode: view}, labels=batch["labels"])
    wanted = -model.crf.log_likelihood(model.emissions(view), batch["labels"], view["mask"]).mean()
    torch.testing.assert_close(outputs["loss"], wanted)
    assert set(outputs) == {"loss", f"nll_{mode}"}


def test_word_dropout_zeroes_whole_tokens_and_rescales_nothing(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder, word_dropout=0.5).train()
    dropped = model.drop_words(torch.full((50, 20, 8), 3.0))
    per_token = dropped.sum(-1)
    assert set(per_token.unique().tolist()) == {0.0, 24.0}
    assert 0.4 < (per_token == 0).float().mean() < 0.6
    assert (model.eval().drop_words(torch.ones(5, 5, 8)) == 1).all()


def test_padding_and_company_do_not_change_a_tweets_emissions(xlm_r_folder: Path) -> None:
    model = tagger(xlm_r_folder).eval()
    encoder = view_encoder(load_tokenizer(xlm_r_folder, local_files_only=True), model.config)
    posts = ambiguous_views(5, seed=2)
    encoded = encoder.encode(posts, with_context=True)
    together = model.emissions(collate(encoded, encoder.pad_id))
    for row, view in enumerate(encoded):
        alone = model.emissions(collate([view], encoder.pad_id))[0]
        torch.testing.assert_close(together[row, : len(view)], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("folder", ["xlm_r_folder", "bert_folder"])
def test_a_saved_tagger_needs_nothing_but_its_folder(
    folder: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = tmp_path / "encoder"
    shutil.copytree(request.getfixturevalue(folder), source)
    model = tagger(source).eval()
    batch = inputs(model, source)
    with torch.no_grad():
        model.crf.transitions.normal_()
    model.save_pretrained(tmp_path / "tagger")
    load_tokenizer(source, local_files_only=True).save_pretrained(tmp_path / "tagger")
    shutil.rmtree(source)
    assert not list((tmp_path / "tagger").glob("*.bin"))
    loaded, encoder = load_tagger(tmp_path / "tagger")
    assert loaded.labels == model.labels
    assert not loaded.training
    for one, other in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(loaded.emissions(batch["cross_modal"]), model.emissions(batch["cross_modal"]))
    assert encoder.limits.max_length == 32
    again = ItaTagger.from_pretrained(tmp_path / "tagger").eval()
    assert torch.equal(again.emissions(batch["text_only"]), model.emissions(batch["text_only"]))


def test_a_tagger_saved_before_there_were_systems_is_itas(tagger_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tagger_folder, tmp_path / "tagger")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config.pop("system") == "ita"
    assert config.pop("options")["context_dropout"] == 0.0
    config["architectures"] = ["CrossViewTagger"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded, _ = load_tagger(folder)
    assert isinstance(loaded, ItaTagger)
    wanted = load_file(tagger_folder / "model.safetensors")
    assert all(torch.equal(weight, wanted[name]) for name, weight in loaded.state_dict().items())


def test_a_tagger_of_an_unknown_system_is_refused(tagger_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tagger_folder, tmp_path / "tagger")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"system": "umt"}), encoding="utf-8")
    with pytest.raises(UserError, match="system 'umt': unknown; this version has ita"):
        load_tagger(folder)


def test_context_dropout_reads_some_tweets_without_their_context(xlm_r_folder: Path) -> None:
    tweet = EncodedView([[0, 5, 2]], [0], [1], [2], [2], "")
    seen = EncodedView([[0, 5, 2, 7, 2]], [0], [1], [2], [2], "x")
    examples = [Example({"text_only": tweet, "cross_modal": seen}, [0])] * 400
    model = tagger(xlm_r_folder, ita={"context_dropout": 0.25})
    torch.manual_seed(0)
    batch = collate_examples(examples, 1, model.training_views)
    blind = (batch["cross_modal"]["input_ids"][:, 3] == 1).float().mean().item()
    assert 0.15 < blind < 0.35
    assert batch["text_only"]["input_ids"].shape == (400, 3)
    never = collate_examples(examples, 1, tagger(xlm_r_folder).training_views)
    assert (never["cross_modal"]["input_ids"][:, 3] == 7).all()


def test_loading_what_is_no_tagger_says_what_it_is(xlm_r_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tagger here \(config.json is missing\)"):
        load_tagger(tmp_path / "nowhere")
    with pytest.raises(UserError, match="found 'xlm-roberta'"):
        load_tagger(xlm_r_folder)


def test_windows_never_exceed_what_the_encoder_takes(xlm_r_folder: Path, bert_folder: Path) -> None:
    assert tagger(xlm_r_folder, max_length=512, max_context=256).config.max_length == 64
    assert tagger(bert_folder, max_length=512, max_context=256).config.max_length == 64
    assert longest_window(tagger(xlm_r_folder).encoder) == 64


def test_a_folder_that_does_not_say_whether_its_encoder_packs_is_tried(tagger_folder: Path, tmp_path: Path) -> None:
    """Those that flair trains do not; `true` and `false` are taken as they stand."""
    config = json.loads((tagger_folder / "config.json").read_text())
    assert config["packs"] is True
    folder = tmp_path / "tagger"
    shutil.copytree(tagger_folder, folder)
    for said, expected in ((None, True), (False, False)):
        (folder / "config.json").write_text(json.dumps(config | {"packs": said}))
        assert load_tagger(folder)[0].packs is expected


def test_the_encoder_keeps_its_pretrained_weights(xlm_r_folder: Path) -> None:
    saved = load_file(xlm_r_folder / "model.safetensors")
    kept = tagger(xlm_r_folder).encoder.state_dict()
    assert kept.keys() <= saved.keys()
    for name, weight in kept.items():
        assert torch.equal(weight, saved[name]), name


def test_a_checkpoint_that_lacks_weights_is_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(xlm_r_folder, tmp_path / "encoder")
    kept = {name: weight for name, weight in load_file(folder / "model.safetensors").items() if ".layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"it lacks 16 weights \(encoder.layer.1"):
        tagger(folder)


@pytest.mark.parametrize("form", [*FORMS, "none"])
@pytest.mark.parametrize("small", [True, False])
def test_a_training_step_asks_no_tensor_for_a_number(
    xlm_r_folder: Path, monkeypatch: pytest.MonkeyPatch, form: str, small: bool
) -> None:
    """On a GPU that would make the host wait; tensors on `meta` have no numbers to give, so that asking raises."""
    if not small:
        monkeypatch.setattr(losses, "SMALL", 0)
    model = tagger(xlm_r_folder, alignment=form).train()
    batch = inputs(model, xlm_r_folder)
    on_meta = {
        name: value.to("meta") if isinstance(value, Tensor) else moved(value, torch.device("meta"))
        for name, value in batch.items()
    }
    model.to("meta")
    model(**on_meta)["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
