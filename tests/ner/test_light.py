"""An exported tagger without torch: the same sub-tokens, paths, entities and confidences as with it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from ner import light
from ner.bioes import allowed_transitions, scheme_labels
from ner.crf.chain import LinearChainCRF
from ner.interop import onnx
from ner.light import Chain, LightTagger, _Tokenizer
from ner.models.folder import load_tokenizer
from ner.tagger import Tagger
from ner.views import ViewEncoder, WindowLimits
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import View
from tests.conftest import ROOT
from tests.ner.conftest import many_views, system_folder


@pytest.fixture(scope="module")
def tagger(exported: Path) -> LightTagger:
    return LightTagger.load(exported)


def test_no_torch_and_no_transformers_are_loaded(exported: Path) -> None:
    script = (
        "import sys; from ner.light import LightTagger; found = LightTagger.load(sys.argv[1]).tag('love Jordan');"
        "print(found.tokens, sorted({'torch', 'transformers', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(exported)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "['love', 'Jordan'] []\n"


@pytest.mark.parametrize("with_context", [True, False])
def test_it_finds_what_the_tagger_finds_with_torch(tagger: LightTagger, exported: Path, with_context: bool) -> None:
    views = [*many_views(), View("empty", [], None, "x"), View("labelled", ["Jordan"], ["B-PER"], "photo of court")]
    own = list(tagger.predict(views, 7, with_context=with_context))
    wanted = list(Tagger.load(exported, "cpu").predict(views, 7, with_context=with_context))
    assert sum(len(each.entities) for each in own) > 100
    for one, other in zip(own, wanted, strict=True):
        assert (one.id, one.tokens, one.labels, one.predicted) == (
            other.id,
            other.tokens,
            other.labels,
            other.predicted,
        )
        assert one.context_used == other.context_used
        assert [each.text for each in one.entities] == [each.text for each in other.entities]
        for entity, twin in zip(one.entities, other.entities, strict=True):
            assert entity.confidence == pytest.approx(twin.confidence, abs=1e-5)


def test_a_text_and_its_places_are_those_of_the_tagger(tagger: LightTagger, exported: Path, tmp_path: Path) -> None:
    text, context = "love  @Jordan in #Paris", "photo of court"
    found, wanted = tagger.tag(text, context), Tagger.load(exported, "cpu").tag(text, context)
    places = [[(each.start_char, each.end_char, each.type) for each in one.entities] for one in (found, wanted)]
    assert places[0] == places[1] != []
    apart = shutil.copytree(exported, tmp_path / "apart")
    config = json.loads((apart / "config.json").read_text(encoding="utf-8"))
    config["marks"] = {"@": {"joined": 0, "apart": 9}, "#": {"joined": 0, "apart": 9}}
    (apart / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (apart / "checksums.json").unlink()
    assert LightTagger.load(apart).tag(text).tokens == ["love", "@", "Jordan", "in", "#", "Paris"]


def test_short_addresses_are_the_taggers(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"short_addresses": True}), encoding="utf-8")
    (folder / "checksums.json").unlink()
    text = "love Jordan https://t.co/JordanParis in Paris"
    one, other = LightTagger.load(folder).tag(text), Tagger.load(folder, "cpu").tag(text)
    assert one.predicted == other.predicted
    pieces = LightTagger.load(folder)._encoder.words(["https://t.co/JordanParis"])
    assert [len(ids) for ids in pieces.values()] == [1]
    assert pieces == Tagger.load(folder, "cpu").encoder.words(pieces)


@pytest.mark.parametrize("scheme", ["bioes", "iob2"])
@pytest.mark.parametrize("exclude_forbidden", [True, False])
def test_the_chain_is_the_crf(scheme: str, exclude_forbidden: bool) -> None:
    torch.manual_seed(1)
    labels = scheme_labels([["B-PER", "B-LOC"]], scheme)
    crf = LinearChainCRF(len(labels), allowed_transitions(labels), exclude_forbidden)
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_()
    scores = (each.detach().numpy() for each in (crf.transitions, crf.start, crf.stop))
    chain = Chain(labels, *scores, exclude_forbidden=exclude_forbidden)
    for length in (1, 2, 3, 9, 30):
        emissions = 3 * torch.randn(1, length, len(labels))
        mask = torch.ones(1, length, dtype=torch.bool)
        [path] = crf.viterbi(emissions, mask)[0].tolist()
        own = np.asarray(emissions[0], dtype=np.float64)
        assert chain.best_path(own) == path
        spans = [(start, end) for start in range(length) for end in range(start + 1, length + 1)][:40]
        wanted = crf.span_log_probability(
            emissions, mask, torch.tensor([path]), torch.tensor([(0, *span) for span in spans])
        ).exp()
        assert chain.span_probabilities(own, path, spans) == pytest.approx(wanted.tolist(), rel=1e-4)


def test_sub_tokens_are_those_of_transformers(xlm_r_folder: Path, bert_folder: Path, bpe: Any, tmp_path: Path) -> None:
    bpe.save_pretrained(tmp_path / "bpe")
    words = ["love", "Jordan", "</s>", "[SEP]", "<mask>", "\u200b", "é", "Ünïcode", "😂", "a b", "@x", "…"]
    views = [View("1", words, None, "photo </s> of [SEP] é 😂"), View("2", ["Paris"] * 60, None, "x " * 90)]
    for folder in (xlm_r_folder, bert_folder, tmp_path / "bpe"):
        saved, limits = tmp_path / f"{folder.name}-saved", WindowLimits(32, 12, 8)
        load_tokenizer(folder, local_files_only=True).save_pretrained(saved)  # as a tagger's
        one, two = ViewEncoder(AutoTokenizer.from_pretrained(saved), limits), ViewEncoder(_Tokenizer(saved), limits)
        assert two.encode(views, with_context=True) == one.encode(views, with_context=True)
        assert two.pad_id == one.pad_id


def test_the_command_writes_what_ner_predict_writes(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "posts.txt"
    file.write_text("love Jordan\n\nin Paris\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["ner.light", str(exported), str(file)])
    with pytest.raises(SystemExit) as stop:
        run_cli(light.main)
    assert stop.value.code == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["id"], row["tokens"]) for row in rows] == [
        ("1", ["love", "Jordan"]),
        ("2", []),
        ("3", ["in", "Paris"]),
    ]
    assert all("start_char" in entity for row in rows for entity in row["entities"])


def test_what_is_no_exported_tagger_is_named(tagger_folder: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no exported tagger here \(tagger\.onnx is missing\)"):
        LightTagger.load(tagger_folder)
    other = shutil.copytree(exported, tmp_path / "other")
    (other / "tagger.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"tagger\.onnx has changed"):
        LightTagger.load(other)
    (other / "checksums.json").unlink()
    with pytest.raises(UserError, match="other"):
        LightTagger.load(other)
    (other / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(UserError, match="expected a tagger"):
        LightTagger.load(other)


def test_code_is_refused_where_transformers_is_not_there_either(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(exported, tmp_path / "code")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "x.y"}}), encoding="utf-8")
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="it needs its own code"):
        LightTagger.load(folder)


@pytest.mark.slow  # an export
def test_a_graph_that_reads_more_than_text_is_refused(xlm_r_folder: Path, tmp_path: Path) -> None:
    folder = onnx.export(system_folder("rpbert", xlm_r_folder, tmp_path / "tagger"), tmp_path / "onnx")
    with pytest.raises(UserError, match=r"system 'rpbert', whose graph also reads .*, needs torch"):
        LightTagger.load(folder)
