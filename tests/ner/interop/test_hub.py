"""The card says what was trained and scored, whatever the data are called; what is published is a tagger that loads."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from safetensors.torch import load_file

from ner import publish
from ner.interop import hub as interop_hub
from ner.interop import model_card
from ner.scoring.f1 import score
from ner.tagger import Tagger
from ner.training import facts
from ner.visual import Visuals
from pipeline.core import checkpoints, checksums
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import View
from pipeline.settings import params, yaml
from pipeline.settings.params import ExtractorParams
from pipeline.settings.training import Iie4mnerParams
from stages.views import sources
from tests.conftest import ROOT
from tests.ner.conftest import ambiguous_views, pictured, synthetic_pictures, system_folder
from tests.ner.interop.hub import Hub

RESULT = {"epochs": 3, "best_epoch": 2, "dev": {"f1": 0.5, "f1_text_only": 0.4, "f1_cross_modal": 0.6}}
VIEWS = {"train": ambiguous_views(20, 1), "dev": ambiguous_views(6, 2)}
HOSTILE = [
    "P|R`x`",
    "<script>alert(1)</script>",
    "[a](http://evil.example)",
    "![i](x)",
    "**b** _c_",
    "www.evil.example",
    "a: b\n---\n# c",
    "\u202e",
    "- &lt; @someone",
]


def scores() -> dict[str, Any]:
    gold = [view.labels or [] for view in VIEWS["dev"]]
    return score(
        gold, [["O"] * len(labels) if place == 1 else labels for place, labels in enumerate(gold)], bootstrap_samples=50
    )


@pytest.fixture
def tagger(tagger_folder: Path, tmp_path: Path) -> Path:
    """A tagger's folder as the train stage leaves it, and its scores as evaluate does."""
    folder = tmp_path / "models" / "tagger"
    shutil.copytree(tagger_folder, folder)
    settings = params.load(ROOT / "params.yaml")
    facts.write(folder, facts.gather(settings.train, sources(settings), "sha256:0123", VIEWS, RESULT))
    runs = tmp_path / "metrics" / "runs"
    runs.mkdir(parents=True)
    (runs / "evaluate.json").write_text(json.dumps({"tagger": checkpoints.digest(folder)}))
    (runs.parent / "evaluation.json").write_text(json.dumps({"dev": {}, "test": {"text_only": scores()}}))
    return folder


def header(card: str) -> dict[str, Any]:
    before, text, _ = card.split("---\n", 2)
    assert before == ""
    found = yaml.parse(text, "the card").values
    assert isinstance(found, dict)
    return found


def tokens_of(card: str) -> Iterator[Any]:
    for token in MarkdownIt("gfm-like", {"html": True, "linkify": False}).parse(card.split("---\n", 2)[2]):
        yield token
        yield from token.children or ()


def rows_of(card: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]


def test_a_card_without_scores_tells_of_the_training(tagger: Path) -> None:
    card = model_card.render(facts.read(tagger))
    assert header(card)["pipeline_tag"] == "token-classification"
    assert "license" not in header(card)
    rows = rows_of(card)
    n_tokens = sum(len(view.tokens) for view in VIEWS["train"])
    assert any(row[:4] == ["train", "20", str(n_tokens), "20"] for row in rows)
    assert ["text_only", "40.00"] in rows
    assert ["temperature", "`4.0`"] in rows
    assert "sample/data" in card
    assert "Scores on other posts are not in this card." in card
    assert "None has been stated." in card


def test_the_published_card_has_every_condition_and_scorer(tagger: Path) -> None:
    evaluation = {"dev": {"text_only": scores(), "cross_modal": scores()}, "test": {"text_only": scores()}}
    card = model_card.render(facts.read(tagger), evaluation, repository="me/it", licence="mit", data="Mine")
    found = scores()
    assert found["conlleval"] == found["strict"], "there are no orphans"
    micro = found["strict"]["micro"]
    row = [
        "text_only",
        "conlleval, strict",
        *(f"{100 * micro[key]:.2f}" for key in ("precision", "recall", "f1")),
        "{:.2f} – {:.2f}".format(*(100 * bound for bound in micro["f1_ci"])),
        str(micro["support"]),
    ]
    assert rows_of(card).count(row) == 2, "one of dev, one of test"
    other = found["conlleval"] | {"micro": {**micro, "f1": 0.5}}
    both = model_card.render(facts.read(tagger), {"test": {"text_only": {**found, "conlleval": other}}})
    assert [row[1] for row in rows_of(both) if row[0] == "text_only"] == ["conlleval", "strict"]
    told = {"confidence": 0.9, "bootstrap_samples": 2000, "bootstrap_seed": 7}
    named = model_card.render(facts.read(tagger), evaluation, evaluated=told)
    assert "the 90 % confidence interval of F1 (bootstrap over posts, 2,000 samples, seed 7)" in named
    assert not re.search("&#", named), "nothing in this card needs a character reference"
    assert card.index("### test") < card.index("### dev")
    top = header(card)
    assert (top["license"], top["model-index"][0]["name"]) == ("mit", "it")
    measured = {
        (result["dataset"]["split"], metric["name"]): metric["value"]
        for result in top["model-index"][0]["results"]
        for metric in result["metrics"]
    }
    assert len(measured) == 6
    assert measured["test", "micro-F1, strict, text_only"] == round(found["strict"]["micro"]["f1"], 4)
    assert {result["dataset"]["name"] for result in top["model-index"][0]["results"]} == {"Mine"}


def test_no_name_or_label_is_taken_for_yaml_or_markdown(tagger: Path) -> None:
    views = {split: [View("1", ["x"] * len(HOSTILE), [f"B-{name}" for name in HOSTILE], "")] for split in VIEWS}
    settings = params.load(ROOT / "params.yaml")
    found = facts.gather(settings.train, sources(settings), "sha256:0123", views, RESULT)
    labels = [views["dev"][0].labels or []]
    plain = model_card.render(
        facts.gather(settings.train, sources(settings), "sha256:0123", VIEWS, RESULT),
        {"test": {"text_only": scores()}},
    )
    wanted = {token.type for token in tokens_of(plain)}
    links = sum(token.type == "link_open" for token in tokens_of(plain))
    for name in HOSTILE:
        card = model_card.render(found, {"test": {"text_only": score(labels, labels)}}, data=name, licence=name)
        assert header(card)["license"] == {"a: b\n---\n# c": "a: b --- # c", "\u202e": "unnamed"}.get(name, name)
        assert set(header(card)) == {*header(plain), "license"}
        tokens = list(tokens_of(card))
        assert {token.type for token in tokens} <= wanted, "neither HTML nor pictures nor headings"
        assert sum(token.type == "link_open" for token in tokens) == links
        assert [token.content for token in tokens if token.type == "html_inline"] == []
        widths = {
            len(block.splitlines()[0].split("|")): {len(line.split("|")) for line in block.splitlines()}
            for block in card.split("\n\n")
            if block.startswith("|")
        }
        assert all(found == {width} for width, found in widths.items()), "a table's rows are of one width"


def test_a_card_tells_nothing_of_the_machine(tagger: Path, tmp_path: Path) -> None:
    settings = params.load(ROOT / "params.yaml")
    settings = settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"root": Path("/home/somebody/tweets")}),
            "train": settings.train.model_copy(update={"encoder": "/home/somebody/xlm-r"}),
            "captions": ExtractorParams.model_validate(
                {**settings.extraction("captions"), "blip": {"model": "../somebody/blip"}}
            ),
        }
    )
    found = facts.gather(settings.train, sources(settings), "sha256:0123", VIEWS, RESULT)
    assert "somebody" not in model_card.render(found) + json.dumps(found)
    assert (found["data"], found["encoder"]["name"]) == ("tweets", "xlm-r")
    assert found["contexts"]["captions"] == "blip (blip)"
    for file in tagger.glob("*.json"):
        assert str(tmp_path.parent) not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("system", "read", "title"),
    [
        ("ita", None, "Image-Text Alignments"),
        ("rpbert", "features by resnet (resnet) (fingerprint print), 4 regions of width 6", "RpBERT: A Text-image"),
        ("iie4mner", "objects by transformers (checkpoints/sample/detector), 2 labels", "Multi-Granularity"),
    ],
)
def test_every_system_is_published_with_what_it_reads_and_whose_it_is(
    system: str,
    read: str | None,
    title: str,
    xlm_r_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The code of the card is run on what would be sent, which says nothing of the machine."""
    folder = system_folder(system, xlm_r_folder, tmp_path / "tagger")
    settings = params.load(ROOT / "params.yaml")
    own = {"iie4mner": Iie4mnerParams(word_vectors="/home/somebody/glove.txt")}
    train = settings.train.model_copy(update={"model": system, "encoder": "/home/somebody/xlm-r", **own})
    features = ExtractorParams.model_validate(
        {**settings.extraction("features"), "extractor": "resnet", "resnet": {"model": "/home/somebody/resnet"}}
    )
    made_of = sources(settings.model_copy(update={"train": train, "features": features}))
    pictures = facts.pictures(folder, made_of)
    views = {split: pictured(posts) for split, posts in VIEWS.items()}
    facts.write(folder, facts.gather(train, made_of, "sha256:0123", views, RESULT, pictures))
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, monkeypatch, folder, "me/it", "--no-scores", "--dry-run", "sent")
    assert status == 0, err
    card = Path("sent/README.md").read_text(encoding="utf-8")
    written = b"".join(file.read_bytes() for file in Path("sent").iterdir())
    assert b"somebody" not in written
    assert str(tmp_path.parent).encode() not in written
    assert title in card[card.index("## Citation") :]
    assert ("## With pictures" in card) == (read is not None)
    weights = load_file("sent/model.safetensors")
    assert ("table" in weights) == (system == "iie4mner")
    [_code, *shown] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    if read is None:
        assert "with a context" in card
        return
    assert "with a picture" in card
    assert read in unescape(card)
    assert ("of 2 words of its data" in card) == (system == "iie4mner")
    Path("data/contexts").mkdir(parents=True)
    found, objects = synthetic_pictures(tmp_path)
    found.rename("data/features")
    objects.rename("data/contexts/objects.jsonl")
    places = [Path("data/features"), Path("data/contexts/objects.jsonl") if system == "iie4mner" else None]
    written_so = ", ".join("None" if place is None else f'Path("{place}")' for place in places)
    assert f"tagger.show(Visuals.open({written_so}))" in shown[0]
    tagger = Tagger.load("sent", "cpu")
    tagger.show(Visuals.open(*places))
    posts = [post for post in views["train"] if post.images and post.images[0] != "torn.jpg"]
    blind = list(tagger.predict([replace(post, images=[]) for post in posts]))
    seeing = list(tagger.predict(posts))
    assert [each.entities for each in seeing] != [each.entities for each in blind]


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["ner.publish", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run_cli(publish.main)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_a_dry_run_writes_the_tagger_and_nothing_else_and_it_loads(
    tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    (tagger / ".env").write_text("SECRET")
    (tagger / "notes.txt").write_text("mine")
    (tagger / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "metrics/runs/evaluate.json").write_text(json.dumps({"tagger": checkpoints.digest(tagger)}))
    status, out, err = run(capsys, monkeypatch, tagger, "me/it", "--dry-run", "sent", "--license", "mit")
    assert (status, "nothing was" in out) == (0, True), err
    assert {file.name for file in Path("sent").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
        "checksums.json",
    }
    assert all(f"left out, being no part of a tagger: {name}" in err for name in (".env", "notes.txt", "pytorch_model"))
    card = Path("sent/README.md").read_text(encoding="utf-8")
    assert header(card)["license"] == "mit"
    assert "text_only | conlleval, strict |" in card
    assert "dev: its posts have no labels" in card
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert 'sightread.load("me/it")' in code
    assert "`echo TEXT | sightread tag me/it`" in card
    done = subprocess.run(
        [sys.executable, "-c", code.replace("me/it", str(tmp_path / "sent"))],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = Tagger.load(tagger, "cpu").tag("Finally Jordan ! #tbt").entities
    assert done.stdout == f"{expected}\n"
    assert expected
    status, _, err = run(capsys, monkeypatch, tagger, "me/it", "--dry-run", "sent")
    assert (status, "sent: not empty" in err) == (2, True)


def test_mistakes_of_publishing_are_one_message(
    tagger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interop_hub, "get_token", lambda: None)
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        ((tagger, "it"), "expected OWNER/NAME"),
        ((tagger, "me/it/../x"), "expected OWNER/NAME"),
        ((tagger, "me/it", "--metrics", "nowhere"), "evaluation.json: no such file"),
        (("empty", "me/it", "--no-scores"), "training.json is missing"),
        ((tagger, "me/it"), "no token for the hub: run hf auth login"),
    ]:
        status, _, err = run(capsys, monkeypatch, *arguments)
        assert status == 2
        assert message in err
    (tagger / "config.json").write_text((tagger / "config.json").read_text().replace("{", '{"stride": 9, ', 1))
    checksums.seal(tagger)
    status, _, err = run(capsys, monkeypatch, tagger, "me/it")
    assert (status, "the scores of another tagger" in err) == (2, True)
    monkeypatch.setattr(interop_hub, "get_token", lambda: "hf_x")
    status, _, err = run(capsys, monkeypatch, tagger, "me/it", "--no-scores")
    assert (status, "the hub cannot be reached (OfflineModeIsEnabled" in err) == (2, True)


def test_a_tagger_of_the_hub_that_is_not_to_be_had_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"some-one/no-such-tagger: neither a local folder nor in the cache"):
        Tagger.load("some-one/no-such-tagger")
    with pytest.raises(UserError, match=r"models/tagger: no tagger here.*dvc repro train"):
        Tagger.load("models/tagger")
    with pytest.raises(UserError, match="a local folder has no revision"):
        Tagger.load(tmp_path, revision="main")


PUBLISH_AND_LOAD = """
import sys
from ner import publish
from ner.tagger import Tagger
from pipeline.core.errors import UserError
folder, metrics = sys.argv[1:]
sys.argv = ["publish", folder, "me/it", "--metrics", metrics, "--private"]
publish.main()
print(Tagger.load("me/it", "cpu").tag("Finally Jordan ! #tbt").entities)
for name in ("others/it", "me/public"):
    sys.argv = ["publish", folder, name, "--no-scores", "--private"]
    try:
        publish.main()
    except UserError as error:
        print(error)
"""
LOAD = """
from ner.tagger import Tagger
print(Tagger.load("me/it", "cpu", "main").tag("Finally Jordan ! #tbt").entities)
import os, pathlib
os.renames(pathlib.Path("here"), "me/it")
try:
    Tagger.load("me/it", "cpu")
except Exception as error:
    print(error)
"""


@pytest.mark.slow  # several starts of torch
def test_what_is_published_comes_back_and_a_local_folder_wins(tagger: Path, tmp_path: Path) -> None:
    """Through the hub's protocol, spoken with a server of this test's own."""
    expected = str(Tagger.load(tagger, "cpu").tag("Finally Jordan ! #tbt").entities)
    (tmp_path / "work" / "here").mkdir(parents=True)
    shard = "model-00001-of-00002.safetensors"  # of a larger tagger that was published before
    with Hub({"pytorch_model.bin": b"pickle", "modeling.py": b"code", shard: b"old"}) as hub:

        def python(program: str, *arguments: object) -> list[str]:
            done = subprocess.run(
                [sys.executable, "-c", program, *map(str, arguments)],
                cwd=tmp_path / "work",
                env={**hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT)},
                check=False,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        published, loaded, refused, public = python(PUBLISH_AND_LOAD, tagger, tmp_path / "metrics")
        assert published.startswith(f"published: {hub.address}/me/it/commit/")
        assert hub.made == [("me/it", True)]
        assert set(hub.received) == {
            "README.md",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "training.json",
            "checksums.json",
        }
        assert hub.received["model.safetensors"] == (tagger / "model.safetensors").read_bytes()
        assert set(hub.others) == {"pytorch_model.bin", "modeling.py"}
        assert loaded == expected
        assert hub.sent == set(hub.received) - {"README.md"}, "neither a pickle nor code"
        assert "others/it: the hub refused it (403: no right to write)" in refused
        assert public.startswith("me/public: is there already, and public; nothing was sent")
    from_cache, here = python(LOAD)
    assert from_cache == expected
    assert here.startswith("me/it: no tagger here")


def test_a_link_that_leads_out_of_the_folder_is_not_published(tagger: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tagger, tmp_path / "copy")
    (tmp_path / "secret").write_text("a key")
    (folder / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"vocab\.txt is a link that leads out of the folder"):
        interop_hub.gather(folder, tmp_path / "sent", "a card")
    assert not (tmp_path / "sent").exists()
