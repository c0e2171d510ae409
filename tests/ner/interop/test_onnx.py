"""An exported tagger on onnxruntime: the same entities as on torch, from its folder alone."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from ner import onnx as command
from ner.bioes import scheme_labels
from ner.interop import onnx, quantised
from ner.models.folder import load_tokenizer
from ner.models.graph import GraphInputs
from ner.models.ita import ItaTagger
from ner.scoring.f1 import score
from ner.tagger import Tagger
from pipeline.core.errors import UserError
from pipeline.core.records import Prediction, View
from tests.conftest import ROOT
from tests.ner.conftest import ambiguous_views, many_views, pictured, small_params, synthetic_visuals, system_folder


def assert_same_entities(one: Path, other: Path) -> None:
    views = [*many_views(), View("empty", [], None, "")]
    first, second = (list(Tagger.load(folder, "cpu").predict(views, 7)) for folder in (one, other))
    assert sum(len(prediction.entities) for prediction in first) > 100
    assert_alike(first, second)


def assert_alike(one: list[Prediction], other: list[Prediction]) -> None:
    for prediction, twin in zip(one, other, strict=True):
        assert (prediction.predicted, prediction.context_used) == (twin.predicted, twin.context_used)
        for entity, same in zip(prediction.entities, twin.entities, strict=True):
            assert entity.confidence == pytest.approx(same.confidence, abs=1e-4)


def test_both_engines_find_the_same_entities(tagger_folder: Path, exported: Path, tmp_path: Path) -> None:
    """From a moved copy of the folder: nothing in it may depend on where it was written."""
    assert_same_entities(tagger_folder, shutil.copytree(exported, tmp_path / "moved"))


@pytest.mark.parametrize("n_threads", [2, 5])
def test_threads_that_share_a_batch_find_the_same_entities(tagger_folder: Path, exported: Path, n_threads: int) -> None:
    torch.set_num_threads(n_threads)
    assert_same_entities(tagger_folder, exported)


def slow(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.slow)  # an export takes some five seconds


@pytest.mark.parametrize(
    ("system", "options", "with_pictures"),
    [
        ("rpbert", {}, False),
        ("iie4mner", {}, False),
        slow("ita", {"gate": "soft"}, False),
        slow("rpbert", {}, True),
        slow("rpbert", {"lstm_layers": 0, "pooling": "first"}, False),
        slow("rpbert", {"lstm_layers": 2, "gate_on": "attention"}, True),
        slow("rpbert", {"gate": "none"}, True),
        slow("iie4mner", {}, True),
    ],
    ids=str,
)
def test_every_system_is_exported(
    system: str, options: dict[str, Any], with_pictures: bool, xlm_r_folder: Path, tmp_path: Path
) -> None:
    """Tweets of several windows, in batches that threads share; with one picture, two, a torn one, none."""
    source = system_folder(system, xlm_r_folder, tmp_path / "tagger", **options)
    folder = onnx.export(source, tmp_path / "onnx", with_pictures=with_pictures)
    torch.set_num_threads(2)
    if not with_pictures:
        assert_same_entities(source, folder)
        with pytest.raises(UserError, match="or one exported without --pictures, reads no features"):
            Tagger.load(folder).show(synthetic_visuals(tmp_path))
        with pytest.raises(UserError, match="an exported tagger has its word vectors in its graph"):
            Tagger.load(folder).augment(tmp_path / "vectors.txt")
        return
    views, found = pictured(many_views()), []
    for place in (source, folder):
        tagger = Tagger.load(place, "cpu")
        blind = list(tagger.predict(views, 7))
        tagger.show(synthetic_visuals(tmp_path))
        found.append((blind, list(tagger.predict(views, 7))))
    (blind, seeing), twins = found
    assert sum(one.entities != other.entities for one, other in zip(blind, seeing, strict=True)) > 10
    for predictions, twin in ((blind, twins[0]), (seeing, twins[1])):
        assert_alike(predictions, twin)


def test_pictures_are_not_exported_where_none_are_read(tagger_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"system 'ita' reads pictures as words .*; leave out --pictures"):
        onnx.export(tagger_folder, tmp_path / "onnx", with_pictures=True)
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("model_type", ["electra", "bert", "distilbert"])
def test_an_encoder_of_another_architecture_is_exported_too(model_type: str, bert_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = load_tokenizer(bert_folder, local_files_only=True)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    params = small_params(tmp_path / "encoder", max_length=64)
    model = ItaTagger.from_encoder(params.encoder, scheme_labels([["B-PER"]]), params, local_files_only=True)
    with torch.no_grad():
        model.emission.weight.mul_(20)
    model.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    assert_same_entities(tmp_path / "tagger", onnx.export(tmp_path / "tagger", tmp_path / "onnx"))


def test_a_folder_that_is_there_is_left_alone(tagger_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        onnx.export(tagger_folder, tmp_path)


def test_a_graph_without_its_weights_is_an_error(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "cut")
    (folder / "tagger.onnx").write_bytes((folder / "tagger.onnx").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"not as it was saved, by checksums\.json: tagger\.onnx has changed"):
        Tagger.load(folder)
    (folder / "checksums.json").unlink()
    with pytest.raises(UserError, match=r"tagger\.onnx: not an ONNX model, or cut short"):
        Tagger.load(folder)


def test_weights_beside_a_graph_must_be_its_own(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "folder")
    (folder / "tagger.onnx.data").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"tagger\.onnx\.data is missing"):
        Tagger.load(folder)
    (folder / "tagger.onnx.data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"tagger\.onnx\.data is a link that leads out of the folder"):
        Tagger.load(folder)


def test_an_export_tells_nothing_of_the_machine(exported: Path) -> None:
    written = b"".join(path.read_bytes() for path in exported.iterdir())
    for place in (str(ROOT), sys.prefix, str(Path(torch.__file__).parent), "site-packages", ".py"):
        assert place.encode() not in written, place


# Torch exports the graph, and it agrees on one window: the comparison on two of them is what refuses it.
_COMPARED = (
    r"an encoder of the type modernbert cannot be exported: onnxruntime fails on sub-tokens of shape \(2, 9\) .*; tag "
    "with the tagger itself"
)


def test_an_encoder_whose_graph_fails_on_other_shapes_is_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    """Rotary positions are traced for one window; where onnxruntime cannot run them for more, no folder is left."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(xlm_r_folder, local_files_only=True)
    config = AutoConfig.for_model(
        "modernbert",
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        pad_token_id=1,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "encoder")
    params = small_params(tmp_path / "encoder", max_length=64)
    model = ItaTagger.from_encoder(params.encoder, scheme_labels([["B-PER"]]), params, local_files_only=True)
    model.save_pretrained(tmp_path / "tagger")
    tokenizer.save_pretrained(tmp_path / "tagger")
    with pytest.raises(UserError, match=_COMPARED):
        onnx.export(tmp_path / "tagger", tmp_path / "onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"encoder", "tagger"}


def test_a_graph_with_other_scores_is_not_declared_good(
    tagger_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = onnx._Graph.forward

    def louder(self: onnx._Graph, inputs: GraphInputs) -> tuple[torch.Tensor, ...]:
        emissions, *scores = forward(self, inputs)
        return emissions * 1.1, *scores

    monkeypatch.setattr(onnx._Graph, "forward", louder)
    with pytest.raises(UserError, match="gives other scores than the tagger on 1 windows of 5 sub-tokens"):
        onnx.export(tagger_folder, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_what_fails_at_run_time_is_one_message(exported: Path) -> None:
    model, _ = onnx.load(exported)
    view = onnx._batch(((3,),), lambda n: [10**6] * n, 0)
    with pytest.raises(UserError, match=r"tagger\.onnx: onnxruntime fails on sub-tokens of shape \(1, 3\) .*; export"):
        model.emissions(view)


def test_what_is_no_tagger_is_not_exported(xlm_r_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a tagger"):
        onnx.export(xlm_r_folder, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_weights_of_8_bits_are_smaller_and_find_nearly_the_same(
    tagger_folder: Path, exported: Path, tmp_path: Path
) -> None:
    folder = quantised.quantise(exported, tmp_path / "int8")
    sizes = [sum(file.stat().st_size for file in place.glob("tagger.onnx*")) for place in (exported, folder)]
    assert sizes[1] < 0.6 * sizes[0], "of a graph of a few small matrices"
    views = many_views()
    one, two = (list(Tagger.load(place, "cpu").predict(views)) for place in (exported, folder))
    labels = [pair for a, b in zip(one, two, strict=True) for pair in zip(a.predicted, b.predicted, strict=True)]
    assert len(labels) > 500
    assert sum(a == b for a, b in labels) > 0.95 * len(labels)
    assert str(Path.home()).encode() not in (folder / "tagger.onnx").read_bytes()


def test_size_speed_and_f1_of_exports_are_stated(
    tagger_folder: Path,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "views.jsonl"
    views = ambiguous_views(12, seed=3)
    file.write_text("".join(json.dumps(asdict(view)) + "\n" for view in views), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["ner.onnx", "compare", str(file), str(tagger_folder), str(exported)])
    command.main()
    head, one, two = capsys.readouterr().out.splitlines()
    assert head.split() == ["MB", "posts/s", "ratio", "text_only", "cross_modal"]
    own = Tagger.load(tagger_folder, "cpu").predict(views)
    f1 = score([view.labels or [] for view in views], [each.predicted for each in own])["strict"]["micro"]["f1"]
    assert one.split()[-1] == two.split()[-1] == f"{100 * f1:.2f}"
    assert one.split()[3] == "1.00"
    file.write_text('{"tokens": ["a"]}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"views\.jsonl: expected posts with labels"):
        command.main()
