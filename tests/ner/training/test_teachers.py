"""Saved taggers as fixed teachers: read once, kept, averaged; what a student learns from them; what is refused."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ner.bioes import scheme_labels
from ner.models.base import TaggerModel
from ner.models.folder import load_tagger
from ner.models.losses import Losses
from ner.training import folds
from ner.training import teachers as module
from ner.training.folds import Fold
from ner.training.run import train
from ner.training.teachers import Teachers
from ner.views import collate
from ner.visual import collate_visuals
from pipeline.core.errors import UserError
from pipeline.core.records import View
from pipeline.core.store import Store
from pipeline.settings.training import TrainParams
from tests.ner.conftest import ambiguous_views, pictured, small_params, synthetic_visuals, system_folder
from tests.ner.training.test_processes import launch
from tests.ner.training.test_run import assert_same, stopped, weights
from tests.ner.training.test_unlabelled import without_labels

TRAINING = """
import sys, torch
from pathlib import Path
from tests.ner.training.test_teachers import params, run
torch.set_num_threads(1)
encoder, tagger, folder = map(Path, sys.argv[1:])
print(run(params(encoder, [tagger], teacher={"form": "sequence"}), folder, folder / "store"))
"""
LABELS = scheme_labels([["B-PER", "B-LOC"]])
CPU = torch.device("cpu")
TRAIN, DEV = ambiguous_views(16, seed=0), ambiguous_views(6, seed=1)
OTHERS = [*without_labels(ambiguous_views(11, seed=2)), View("ulong", ["Jordan", "love", "in", "the"] * 30, None, "x")]


@pytest.fixture(scope="module")
def taggers(xlm_r_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two saved taggers: one that reads contexts, another that knows its labels in another order."""
    folder = tmp_path_factory.mktemp("taggers")
    one = system_folder("ita", xlm_r_folder, folder / "one")
    model, views = load_tagger(one)
    model.config.tag_labels = [*reversed(LABELS)]
    other = type(model)(model.config, model.encoder)
    with torch.no_grad():
        other.emission.weight.normal_(std=0.5)
    other.save_pretrained(folder / "two")
    views.tokenizer.save_pretrained(folder / "two")
    return [one, folder / "two"]


def params(encoder: Path, folders: Sequence[Path], **changes: Any) -> TrainParams:
    teacher = {"taggers": [str(folder) for folder in folders], **changes.pop("teacher", {})}
    return small_params(encoder, teacher=teacher, **changes)


def run(settings: TrainParams, folder: Path, store: Path, **changes: Any) -> dict[str, Any]:
    paths = {"output": folder / "tagger", "work": folder / "work", "curves": folder / "curves"}
    with Store.open(store) as opened:
        data = {"train": TRAIN, "dev": DEV, "unlabelled": OTHERS, "teachers": Teachers(settings, opened)}
        return train(settings, **{"encoder": settings.encoder, "device": "cpu", **data, **paths, **changes})


@pytest.mark.parametrize("form", ["marginal", "sequence", "emission"])
def test_what_teachers_say_is_read_once_kept_in_two_bytes_a_number_and_averaged(
    xlm_r_folder: Path, tmp_path: Path, taggers: list[Path], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = params(xlm_r_folder, taggers, teacher={"form": form, "temperature": 2.0})
    posts = [replace(post, labels=None) for post in TRAIN[:5]]
    with Store.open(tmp_path) as store:
        teachers = Teachers(settings, store)
        lessons = teachers.say(posts, LABELS, CPU)
        sizes = {
            len(value)
            for value in store.get_many(teachers._fingerprint(teachers._teachers[0]), keys(teachers, posts)).values()
        }
        n = len(LABELS)
        rest = n * n + 1 if form == "sequence" else 0
        assert sizes == {2 * (len(post.tokens) * n + rest) for post in posts}
        monkeypatch.setattr(module, "load_tagger", lambda _: pytest.fail("read again"))
        again = Teachers(settings, store).say(posts, LABELS, CPU)
    for lesson, other in zip(lessons, again, strict=True):
        assert np.array_equal(lesson.log_probabilities, other.log_probabilities)
    # By each tagger itself, one post after the other.
    for post, lesson in zip(posts, lessons, strict=True):
        expected = torch.zeros(len(post.tokens), n)
        for folder in taggers:
            model, views = load_tagger(folder)
            batch = collate(views.encode([post], with_context=True), views.pad_id)
            with torch.no_grad():
                emissions = model.emissions(batch)
                if form == "emission":
                    found = emissions.softmax(-1)[0]
                else:
                    found = tempered(model, emissions, batch["mask"], 2.0 if form == "sequence" else 1.0)
            expected += found[:, [model.labels.index(label) for label in LABELS]] / 2
        torch.testing.assert_close(
            torch.from_numpy(lesson.log_probabilities).float().exp(), expected, rtol=0.01, atol=1e-4
        )
        if form == "sequence":
            assert lesson.transitions is not None
            assert lesson.transitions.sum() == pytest.approx(len(post.tokens) - 1, rel=1e-2)


def keys(teachers: Teachers, posts: Sequence[View]) -> list[str]:
    return teachers._keys(teachers._teachers[0], posts)


def tempered(model: TaggerModel, emissions: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    for parameter in model.crf.parameters():
        parameter.div_(temperature)
    return model.crf.marginals(emissions / temperature, mask)[0]


def test_another_context_is_another_reading_and_another_seed_is_not(
    xlm_r_folder: Path, tmp_path: Path, taggers: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(tmp_path) as store:
        teachers = Teachers(params(xlm_r_folder, taggers[:1]), store)
        posts = [replace(post, context=f"photo {n}") for n, post in enumerate(TRAIN[:3])]
        teachers.say(posts, LABELS, CPU)
        moved = [replace(posts[0], context="photo of nothing"), replace(posts[1], id="other", labels=None), posts[2]]
        Teachers(params(xlm_r_folder, taggers[:1], seed=99), store).say(moved, LABELS, CPU)
    told = capsys.readouterr().err
    assert "3 posts are taught by saved taggers (1): 3 of 3 readings are new; the store keeps" in told
    assert "3 posts are taught by saved taggers (1): 1 of 3 readings are new; the store keeps" in told


def test_a_student_comes_close_to_its_teacher_on_posts_that_nobody_labelled(
    xlm_r_folder: Path, tmp_path: Path, taggers: list[Path]
) -> None:
    """Trained on the text alone, with a teacher that reads the text alone; no gold label tells what it says."""
    model, views = load_tagger(taggers[0])
    model.config.views = "text_only"
    model.save_pretrained(tmp_path / "teacher")
    views.tokenizer.save_pretrained(tmp_path / "teacher")
    settings = params(
        xlm_r_folder,
        [tmp_path / "teacher"],
        views="text_only",
        epochs=6,
        unlabelled_ratio=3.0,
        word_dropout=0.0,
        learning_rate=5e-3,
        teacher={"weight": 5.0, "posts": "unlabelled"},
    )
    result = run(settings, tmp_path, tmp_path / "store")
    assert result["unlabelled"] == {"posts": 12}
    curve = (tmp_path / "curves/plots/metrics/train/teacher.tsv").read_text(encoding="utf-8").splitlines()
    losses = [float(line.split("\t")[-1]) for line in curve[1:]]
    assert losses[-1] < losses[0] / 2


@pytest.mark.parametrize("changes", [
    {"teacher": {"form": "sequence", "confidence": "surer", "views": "both"}},
    pytest.param({"model": "rpbert", "rpbert": {"lstm_layers": 1, "lstm_width": 8}}, marks=pytest.mark.slow),
    pytest.param({"model": "iie4mner", "gradient_accumulation": 2}, marks=pytest.mark.slow),
    pytest.param({"views": "cross_modal", "teacher": {"views": "cross_modal"}}, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_stopped_training_with_teachers_goes_on_to_the_same_weights(
    xlm_r_folder: Path, tmp_path: Path, taggers: list[Path], changes: dict[str, Any]
) -> None:
    changes = dict(changes)
    teacher = changes.pop("teacher", {})
    settings = params(xlm_r_folder, taggers, teacher={"confidence": "certainty", **teacher}, **changes)
    shown = {"visuals": synthetic_visuals(tmp_path)} if settings.model != "ita" else {}
    whole = run(settings, tmp_path / "whole", tmp_path / "store", **shown)
    with stopped(epoch=2):
        run(settings, tmp_path / "cut", tmp_path / "store", **shown)
    assert run(settings, tmp_path / "cut", tmp_path / "store", **shown) == whole
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "cut"))


def test_a_saved_tagger_takes_the_place_of_the_tagger_itself_unless_self_is_named_beside_it(
    xlm_r_folder: Path, tmp_path: Path, taggers: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[dict[str, Any]] = []
    forward = Losses.forward

    def listen(self: Losses, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        found = forward(self, *args, **kwargs)
        read.append({"batch": kwargs, "terms": found})
        return found

    monkeypatch.setattr(Losses, "forward", listen)
    run(params(xlm_r_folder, taggers[:1], epochs=1), tmp_path / "alone", tmp_path / "store")
    assert set(read[0]["terms"]) == {"loss", "nll_text_only", "nll_cross_modal", "teacher"}
    assert set(read[0]["batch"]["unlabelled"]) == {"text_only", "lesson"}
    read.clear()
    beside = [Path("self"), taggers[0]]
    run(params(xlm_r_folder, beside, epochs=1), tmp_path / "beside", tmp_path / "store")
    assert set(read[0]["terms"]) == {"loss", "nll_text_only", "nll_cross_modal", "alignment", "teacher"}
    assert set(read[0]["batch"]["unlabelled"]) == {"text_only", "cross_modal", "lesson"}


def test_teachers_that_cannot_teach_are_refused(xlm_r_folder: Path, tmp_path: Path, taggers: list[Path]) -> None:
    with Store.open(tmp_path) as store:
        with pytest.raises(
            UserError, match=r"train.teacher.taggers: .*one finds O, .*expected the labels of the data set, O, B-ORG"
        ):
            Teachers(params(xlm_r_folder, taggers), store).say(TRAIN, scheme_labels([["B-ORG"]]), CPU)
        with pytest.raises(UserError, match=r"one finds labels of scheme bioes, but train.scheme is iob2"):
            Teachers(params(xlm_r_folder, taggers, scheme="iob2"), store)
        with pytest.raises(UserError, match=r"no tagger here"):
            Teachers(params(xlm_r_folder, [xlm_r_folder / "nowhere"]), store)
        with pytest.raises(UserError, match=r"expected a tagger .*, found 'xlm-roberta'"):
            Teachers(params(xlm_r_folder, [xlm_r_folder]), store)
    with pytest.raises(ValueError, match=r"teacher.views: text_only is to learn, but train.views: cross_modal"):
        params(xlm_r_folder, taggers, views="cross_modal")
    with pytest.raises(ValueError, match="names a teacher twice"):
        params(xlm_r_folder, [taggers[0], taggers[0]])


def test_a_tagger_of_a_fold_teaches_that_fold_and_what_nobody_labelled(
    xlm_r_folder: Path, tmp_path: Path, taggers: list[Path]
) -> None:
    folders = []
    for index, source in enumerate(taggers):
        folders.append(shutil.copytree(source, tmp_path / str(index)))
        folds.write(folders[-1], Fold(index, 2), "key")
    posts = [*TRAIN, *OTHERS]
    with Store.open(tmp_path / "store") as store:
        of_folds = Teachers(params(xlm_r_folder, folders), store).say(posts, LABELS, CPU)
        alone = [Teachers(params(xlm_r_folder, [source]), store).say(posts, LABELS, CPU) for source in taggers]
        both = Teachers(params(xlm_r_folder, taggers), store).say(posts, LABELS, CPU)
        with pytest.raises(UserError, match=r"every one was trained on post .*; name the taggers of all folds"):
            Teachers(params(xlm_r_folder, folders[:1]), store).say(posts, LABELS, CPU)
    parts = [[post for post in TRAIN if Fold(index, 2).has(post)] for index in range(2)]
    assert sorted(post.id for part in parts for post in part) == sorted(post.id for post in TRAIN)
    assert all(parts)
    for place, post in enumerate(posts):
        expected = both if post.labels is None else alone[post in parts[1]]
        torch.testing.assert_close(
            torch.from_numpy(of_folds[place].log_probabilities),
            torch.from_numpy(expected[place].log_probabilities),
            rtol=1e-2,
            atol=1e-3,
        )
    assert Fold(0, 2).without(posts) == [*parts[1], *OTHERS]


def test_a_teacher_that_reads_pictures_is_shown_them(xlm_r_folder: Path, tmp_path: Path) -> None:
    folder, visuals = system_folder("rpbert", xlm_r_folder, tmp_path / "rpbert"), synthetic_visuals(tmp_path)
    seen = next(post for post in pictured(TRAIN) if post.images and post.images[0] != "torn.jpg")
    model, views = load_tagger(folder)
    views.show(visuals, model.config.facts or {})
    [encoded] = views.encode([seen], with_context=True)
    with torch.no_grad():
        batch = collate([encoded], views.pad_id)
        expected = model.crf.marginals(model.emissions(batch, collate_visuals([encoded.visual])), batch["mask"])[0]
    with Store.open(tmp_path / "store") as store:
        settings = params(xlm_r_folder, [folder])
        assert Teachers(settings, store).read_visual
        [said] = Teachers(settings, store, visuals, "one").say([seen], model.labels, CPU)
        [other] = Teachers(settings, store, visuals, "two").say([replace(seen, images=[])], model.labels, CPU)
    found = torch.from_numpy(said.log_probabilities).float().exp()
    torch.testing.assert_close(found, expected, rtol=0.01, atol=1e-4)
    assert not np.allclose(said.log_probabilities, other.log_probabilities, atol=1e-2)


@pytest.mark.slow  # two processes are started
def test_of_several_processes_the_first_reads_the_teachers_and_all_learn_from_them(
    xlm_r_folder: Path, tmp_path: Path, taggers: list[Path]
) -> None:
    script = tmp_path / "training.py"
    script.write_text(TRAINING, encoding="utf-8")
    process = launch(script, xlm_r_folder, taggers[0], tmp_path / "run")
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert len(output.splitlines()) == 2
    assert len(set(output.splitlines())) == 1
    assert errors.count("posts are taught by saved taggers (1)") == 1
