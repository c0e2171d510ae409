"""Taggers in flair: the same entities for any text, files that stand alone, and none taken in that ours cannot be.

What needs flair runs in its interpreter (tests/ner/interop/flair/flair_side.py) and is skipped where that is not built.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from ner.models.folder import load_tokenizer, quietly
from ner.models.ita import ItaTagger
from ner.tagger import Tagger
from pipeline.core import environments
from pipeline.core.records import View
from tests.conftest import ROOT
from tests.ner.conftest import small_params

LABELS = ["O", *(f"{prefix}-{kind}" for kind in ("LOC", "PER") for prefix in "BIES")]
# Tokens of which a tokenizer leaves nothing, and such as spell its special tokens.
ODD = [
    "\u200b",
    "\ufe0f",
    "\u00a0",
    "\ufffd",
    "\ufe0f\u200b",
    "\u0301",
    "</s>",
    "<s>",
    "<unk>",
    "<pad>",
    "[SEP]",
    "[CLS]",
    "☃",
    "日本",
]
WORDS = ["love", "Jordan", "in", "the", "Paris", "court", "desert", "@#:/", "o'Neil", "x9"]

FlairSide = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def flair_side(tmp_path_factory: pytest.TempPathFactory) -> FlairSide:
    """Runs functions of tests/ner/interop/flair/flair_side.py, one process for all of a call's."""
    wanted = environments.environment("flair")
    if problem := wanted.problem():
        pytest.skip(f"the interpreter flair {problem}: {wanted.command}")

    def run(*plan: list[Any]) -> list[Any]:
        file = tmp_path_factory.mktemp("plan") / "plan.json"
        file.write_text(json.dumps(plan), encoding="utf-8")
        ran = subprocess.run(
            [wanted.python, "-m", "tests.ner.flair_side", file], cwd=ROOT, check=False, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines()]

    return run


def with_long_windows(encoder: Path, folder: Path) -> Path:
    """The encoder's kind and tokenizer, with room for 400 sub-tokens: whole tweets, spelt letter by letter."""
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(encoder, max_position_embeddings=402)
    AutoModel.from_config(config).save_pretrained(folder)
    load_tokenizer(encoder).save_pretrained(folder)
    return folder


def random_tagger(encoder: Path, folder: Path, **changes: object) -> Path:
    """A tagger whose labels hang on every token: large random emissions and transitions."""
    with quietly():
        torch.manual_seed(1)
        model = ItaTagger.from_encoder(encoder, LABELS, small_params(encoder, **changes))
        with torch.no_grad():
            for weight in (model.emission.weight, model.crf.transitions, model.crf.start, model.crf.stop):
                weight.normal_(std=1.0)
        model.save_pretrained(folder)
        load_tokenizer(encoder).save_pretrained(folder)
    return folder


def posts() -> list[list[str]]:
    around = [[WORDS[(number + step) % len(WORDS)] for step in range(4)] for number in range(len(WORDS))]
    return [
        *around,
        *[[*words[:2], odd, *words[2:]] for words, odd in zip(around * 2, ODD, strict=False)],
        *[[odd] for odd in ODD],
    ]


def our_entities(folder: Path, tokens: list[list[str]]) -> list[list[list[Any]]]:
    tagger = Tagger.load(folder, "cpu")
    return [
        [[one.start, one.end, one.type] for one in prediction.entities]
        for prediction in tagger.predict([View(str(place), each, None, "") for place, each in enumerate(tokens)])
    ]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ner.flair_bridge", *map(str, arguments)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )


def test_flair_finds_the_same_entities_in_any_text(
    xlm_r_folder: Path, bert_folder: Path, tmp_path: Path, flair_side: FlairSide
) -> None:
    wanted, plan = {}, []
    for name, encoder in (("xlm-r", xlm_r_folder), ("bert", bert_folder)):
        folder, file = random_tagger(encoder, tmp_path / name), str(tmp_path / f"{name}.pt")
        wanted[name] = our_entities(folder, posts())
        assert sum(map(len, wanted[name])) > len(posts()) / 2
        plan += [
            ["export", str(folder), file],
            ["predict", file, posts()],
            ["model_card", file],
            ["import_", file, str(tmp_path / f"{name} again")],
        ]
    answers = flair_side(*plan)
    for place, name in enumerate(wanted):
        _, found, card, _ = answers[4 * place : 4 * place + 4]
        assert found == wanted[name]
        assert "Sightread" in card["origin"]
        assert our_entities(tmp_path / f"{name} again", posts()) == wanted[name]
        content = (tmp_path / f"{name}.pt").read_bytes()
        assert str(tmp_path).encode() not in content
        assert str(xlm_r_folder.parent).encode() not in content


@pytest.mark.slow
def test_a_file_needs_its_folder_no_more_and_long_posts_get_every_token(
    bert_folder: Path, tmp_path: Path, flair_side: FlairSide
) -> None:
    folder, file = random_tagger(bert_folder, tmp_path / "tagger"), str(tmp_path / "tagger.pt")
    flair_side(["export", str(folder), file])
    shutil.rmtree(folder)
    long = [WORDS[place % len(WORDS)] for place in range(200)]
    assert flair_side(["predict", file, [long]])[0][0][-1][1] > 150


@pytest.mark.slow
def test_what_our_tagger_cannot_be_is_refused(bert_folder: Path, tmp_path: Path, flair_side: FlairSide) -> None:
    folder, file, new = random_tagger(bert_folder, tmp_path / "tagger"), str(tmp_path / "t.pt"), str(tmp_path / "new")
    cases = [
        ({"use_rnn": True}, "an RNN"),
        ({"reproject_embeddings": True}, "reprojects embeddings"),
        ({"use_crf": False}, "no CRF"),
        ({"subtoken_pooling": "mean"}, "pooled by 'mean'"),
        ({"layers": "-1,-2"}, "layers [-1, -2]"),
        ({"use_context": True}, "neighbouring sentences"),
        ({"labels": ["O", "NOUN", "VERB"]}, "labels that are not BIOES"),
        ({}, "taken"),
    ]
    answers = flair_side(
        ["export", str(folder), file],
        *(["refusal", file, f"{new} {place}", changes] for place, (changes, _) in enumerate(cases)),
    )
    for (_, wanted), answer in zip(cases, answers[1:], strict=True):
        assert wanted in answer
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("new")] == [f"new {len(cases) - 1}"]


def test_a_pickle_is_not_loaded_unless_it_is_trusted(tmp_path: Path) -> None:
    ran = command("import", tmp_path / "some.pt", tmp_path / "new")
    assert ran.returncode == 2
    assert "--trust" in ran.stderr
    assert not (tmp_path / "new").exists()


def test_a_file_that_is_no_pickle_is_named(tmp_path: Path, flair_side: FlairSide) -> None:
    file = tmp_path / "cut.pt"
    for content in (b"no pickle", bytes(range(256)), b""):
        file.write_bytes(content)
        ran = command("import", file, tmp_path / "new", "--trust")
        assert ran.returncode == 2, ran.stderr
        assert f"error: {file}: flair cannot load it" in ran.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_command_goes_on_in_flairs_interpreter(bert_folder: Path, tmp_path: Path, flair_side: FlairSide) -> None:
    folder = random_tagger(bert_folder, tmp_path / "tagger")
    ran = command("export", folder, tmp_path / "t.pt")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "t.pt").is_file()
    missing = command("export", tmp_path / "nothing", tmp_path / "t.pt")
    assert missing.returncode == 2
    assert "no tagger here" in missing.stderr


@pytest.mark.slow
@pytest.mark.real_data
def test_every_post_of_twitter_2015s_test_split(
    real_data: Path, xlm_r_folder: Path, bert_folder: Path, tmp_path: Path, flair_side: FlairSide
) -> None:
    from pipeline.corpus import conll

    tokens = [post.tokens for post in conll.read(real_data / "twitter2015" / "test.txt")]
    for name, encoder in (("xlm-r", xlm_r_folder), ("bert", bert_folder)):
        wide = with_long_windows(encoder, tmp_path / f"{name} wide")
        folder, file = random_tagger(wide, tmp_path / name, max_length=400), str(tmp_path / f"{name}.pt")
        wanted = our_entities(folder, tokens)
        assert sum(map(len, wanted)) > len(tokens)
        _, found = flair_side(["export", str(folder), file], ["predict", file, tokens])
        differing = [place for place, entities in enumerate(found) if entities != wanted[place]]
        assert differing == []
