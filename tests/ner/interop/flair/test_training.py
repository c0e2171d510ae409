"""Training by flair: the loss and gradients that ours has, a tagger in our format, and no option passed over.

What needs flair runs in its interpreter and is skipped where that is not built.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ner.bioes import scheme_labels, to_scheme
from ner.interop.flair.training import encoded_rows, train
from ner.models.folder import load_tokenizer, quietly, view_encoder
from ner.models.ita import ItaTagger
from ner.scoring.f1 import score
from ner.tagger import Tagger
from ner.training.sampler import Example, collate_examples
from ner.views import ViewName
from pipeline.core import environments
from pipeline.core.errors import UserError
from pipeline.core.files import write_jsonl
from pipeline.core.records import View
from pipeline.settings.training import TrainParams
from tests.ner.conftest import ambiguous_views, small_params
from tests.ner.interop.flair.test_bridge import FlairSide, flair_side

__all__ = ["flair_side"]

OBJECTIVES: list[dict[str, Any]] = [
    {"views": "text_only"},
    {"views": "both", "alignment": "none"},
    {"views": "both", "alignment": "marginal", "temperature": 2.0},
    {
        "views": "both",
        "alignment": "marginal",
        "detach_teacher": False,
        "weights": {"text_only": 0.7, "cross_modal": 0.4, "alignment": 1.5},
    },
]


def objective_of_ours(params: TrainParams, views: list[View], folder: Path, rows: Path) -> dict[str, Any]:
    """Loss and gradients of one batch by our tagger without dropout, which it leaves in `folder` for flair."""
    with quietly():
        torch.manual_seed(2)
        labels = scheme_labels(view.labels or [] for view in views)
        model = ItaTagger.from_encoder(params.encoder, labels, params)
        tokenizer = load_tokenizer(params.encoder)
        encoder_config = model.config.encoder
        assert encoder_config is not None
        for setting in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            encoder_config[setting] = 0.0
        with torch.no_grad():
            model.emission.weight.normal_()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        encoder = view_encoder(tokenizer, model.config)
    write_jsonl(rows, encoded_rows(views, encoder, params))
    names: tuple[ViewName, ...] = ("text_only", "cross_modal") if params.views == "both" else (params.views,)
    encoded = {name: encoder.encode(views, with_context=name == "cross_modal") for name in names}
    examples = [
        Example(
            {name: encoded[name][place] for name in names},
            [labels.index(label) for label in to_scheme(view.labels or [])],
        )
        for place, view in enumerate(views)
    ]
    found = model.eval()(**collate_examples(examples, encoder.pad_id))
    found["loss"].backward()
    return {
        **{name: float(value.detach()) for name, value in found.items()},
        "emission.weight": model.emission.weight.grad,
        "crf.transitions": model.crf.transitions.grad,
        "crf.start": model.crf.start.grad,
        "words": model.encoder.embeddings.word_embeddings.weight.grad,
    }


def test_flair_has_our_loss_and_our_gradients(bert_folder: Path, tmp_path: Path, flair_side: FlairSide) -> None:
    views, wanted, plan = ambiguous_views(6, seed=4), [], []
    for place, changes in enumerate(OBJECTIVES):
        params = small_params(bert_folder, trainer="flair", word_dropout=0.0, **changes)
        folder, rows = tmp_path / str(place), tmp_path / f"{place}.jsonl"
        wanted.append(objective_of_ours(params, views, folder, rows))
        # All at once, and in parts as gradient accumulation has it.
        plan += [["loss", str(folder), str(rows), params.model_dump(mode="json"), part] for part in (6, 4)]
    found = flair_side(*plan)
    for place, ours in enumerate(wanted):
        for theirs in found[2 * place : 2 * place + 2]:
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
            for name, value in theirs["terms"].items():
                assert value == pytest.approx(ours[name], rel=1e-3, abs=1e-5)
            for name in ("emission.weight", "crf.transitions", "crf.start", "words"):
                torch.testing.assert_close(torch.tensor(theirs[name]), ours[name], rtol=1e-3, atol=1e-5)


def test_flair_trains_a_tagger_of_ours(xlm_r_folder: Path, tmp_path: Path, flair_side: FlairSide) -> None:
    dev = ambiguous_views(20, seed=2)
    params = small_params(xlm_r_folder, trainer="flair", epochs=3, patience=3, weight_decay=0.0)
    result = train(
        params,
        python=environments.environment("flair").python,
        encoder=xlm_r_folder,
        train=ambiguous_views(60, seed=1),
        dev=dev,
        output=tmp_path / "tagger",
        work=tmp_path / "work",
        curves=tmp_path / "curves",
        device="cpu",
    )
    assert result["epochs"] == 3
    assert not (tmp_path / "work").exists()
    tagger = Tagger.load(tmp_path / "tagger", "cpu")
    for name in ("text_only", "cross_modal"):  # what flair said of its best epoch is what our decoder finds
        predicted = [each.predicted for each in tagger.predict(dev, with_context=name == "cross_modal")]
        f1 = score([view.labels or [] for view in dev], predicted)["strict"]["micro"]["f1"]
        assert f1 == pytest.approx(result["dev"][f"f1_{name}"], abs=1e-9)
    curve = (tmp_path / "curves" / "plots" / "metrics" / "train" / "alignment.tsv").read_text(encoding="utf-8")
    assert len(curve.splitlines()) == 4
    losses = (tmp_path / "curves" / "plots" / "metrics" / "train" / "loss.tsv").read_text(encoding="utf-8").split()
    assert float(losses[-2]) < float(losses[3])


def test_a_post_of_several_windows_is_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    long = View("long one", ["Jordan"] * 60, ["B-PER"] * 60, "")
    with pytest.raises(UserError, match=r"post long one needs \d encoder windows"):
        train(
            small_params(xlm_r_folder, views="text_only"),
            python=Path(sys.executable),
            encoder=xlm_r_folder,
            train=[long],
            dev=ambiguous_views(2, seed=1),
            output=tmp_path / "tagger",
            work=tmp_path / "work",
            curves=None,
            device="cpu",
        )
    assert not (tmp_path / "tagger").exists()


def test_what_ends_badly_in_flairs_interpreter_leaves_no_tagger(
    xlm_r_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="ended with status 1"):  # the core's interpreter has no flair
        train(
            small_params(xlm_r_folder),
            python=Path(sys.executable),
            encoder=xlm_r_folder,
            train=ambiguous_views(4, seed=1),
            dev=ambiguous_views(2, seed=1),
            output=tmp_path / "tagger",
            work=tmp_path / "work",
            curves=None,
            device="cpu",
        )
    assert "No module named 'flair'" in capfd.readouterr().err
    assert not (tmp_path / "tagger").exists()
