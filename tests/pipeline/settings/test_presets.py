"""Presets: what they change in params.yaml, what they leave alone, and what they refuse."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.extractors import registry
from pipeline.settings import params, yaml
from pipeline.settings import presets as preset
from tests.conftest import ROOT

ITA = [f"ita-{data}{size}" for data in ("snap", "twitter2015", "twitter2017") for size in ("", "-base")]
IIE4MNER = ["iie4mner-twitter2015", "iie4mner-twitter2017"]
RPBERT = ["rpbert-snap", "rpbert-twitter2015"]
MINILM = [f"{what}-{data}" for what in ("knowledge", "minilm") for data in ("twitter2015", "twitter2017")]
HERE = [*MINILM, "informed-twitter2015", "unlabelled-twitter2015"]
DATA = [
    *("btc", "gmner", "hvpnet-twitter2015", "hvpnet-twitter2017", "mner-mi"),
    *("umt-twitter2015", "umt-twitter2017", "wnut17"),
]
NAMES = sorted([*IIE4MNER, *ITA, *RPBERT, *HERE, *DATA, "tweets"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path / "params.yaml"


def write_preset(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def comments(text: str) -> list[str]:
    return re.findall(r"(?:^|\s)#.*$", text, re.MULTILINE)


def test_the_shipped_presets_are_the_papers_those_for_runs_here_and_one_to_begin_with() -> None:
    assert preset.names() == NAMES


@pytest.mark.parametrize("name", ITA)
def test_a_shipped_preset_gives_the_published_settings(name: str, path: Path) -> None:
    preset.apply(name, path)
    settings = params.load(path)
    train = settings.train
    assert train.encoder == f"FacebookAI/xlm-roberta-{'base' if name.endswith('-base') else 'large'}"
    assert train.temperature == (2.0 if "2017" in name else 4.0)
    assert (train.weights.text_only, train.weights.cross_modal, train.weights.alignment) == (1.0, 0.5, 0.5)
    assert (train.views, train.alignment, train.detach_teacher) == ("both", "marginal", True)
    assert (train.learning_rate, train.crf_learning_rate) == (5e-6, 0.05)
    assert (train.batch_size, train.epochs, train.warmup_ratio, train.max_grad_norm) == (4, 10, 0.0, 5.0)
    assert (train.word_dropout, train.max_length, train.stride, train.patience) == (0.1, 512, 256, None)
    assert sorted(settings.views.kinds) == ["captions", "knowledge", "objects", "ocr"]
    assert settings.extraction("knowledge")["extractor"] is None
    assert settings.extraction("captions")["blip"]["num_beams"] == 5


@pytest.mark.parametrize("name", IIE4MNER)
def test_iie4mners_presets_give_the_settings_of_the_published_code(name: str, path: Path) -> None:
    preset.apply(name, path)
    train = params.load(path).train
    assert (train.model, train.encoder) == ("iie4mner", "google-bert/bert-base-cased")
    assert (train.learning_rate, train.crf_learning_rate, train.new_learning_rate) == (3e-5, 3e-5, None)
    assert (train.batch_size, train.epochs, train.warmup_ratio, train.max_grad_norm) == (24, 75, 0.1, 1.0)
    assert (train.adam_epsilon, train.weight_decay, train.scheme, train.word_dropout) == (1e-6, 0.01, "iob2", 0.0)
    assert (train.max_length, train.max_context, train.exclude_forbidden, train.seed) == (64, 0, False, 32)
    options = train.iie4mner
    assert (options.neighbours, options.fusion_dropout, options.span_weight) == (4, 0.5, 0.5)
    assert train.word_vectors is not None


@pytest.mark.parametrize("name", RPBERT)
def test_rpberts_presets_give_the_settings_of_its_published_code(name: str, path: Path) -> None:
    preset.apply(name, path)
    settings = params.load(path)
    train, options = settings.train, settings.train.rpbert
    assert (train.model, train.encoder) == ("rpbert", "google-bert/bert-base-uncased")
    assert (train.learning_rate, train.new_learning_rate, train.crf_learning_rate) == (1e-5, 1e-3, 1e-3)
    assert (train.schedule, train.warmup_ratio, train.weight_decay) == ("constant_with_warmup", 0.0, 0.0)
    assert (train.batch_size, train.epochs, train.max_grad_norm, train.scheme) == (16, 10, None, "iob2")
    assert (train.exclude_forbidden, train.word_dropout) == (False, 0.0)
    assert (options.gate, options.gate_on, options.detach_gate, options.pooling) == ("soft", "input", False, "mean")
    assert (options.lstm_layers, options.lstm_width, options.relation_weight) == (2, 256, 0.05)
    features = settings.extraction("features")
    assert (features["extractor"], features["resnet"]["resize"]) == ("resnet", "squash")


def test_the_preset_for_tweets_of_ones_own_leaves_nothing_at_what_suits_the_sample_alone(path: Path) -> None:
    preset.apply("tweets", path)
    settings = params.load(path)
    for kind in ("objects", "captions", "ocr"):
        section = settings.extraction(kind)
        registry.choose(kind, section)
        assert "checkpoints/sample" not in str(section[section["extractor"]])
    assert settings.extraction("ocr")["rapidocr"]["limit_side_len"] == 736
    assert settings.views.template("objects").min_score is None
    assert (settings.train.encoder, settings.train.learning_rate) == ("FacebookAI/xlm-roberta-base", 5e-6)
    assert settings.data == params.load(ROOT / "params.yaml").data


@pytest.mark.parametrize("name", [*ITA, *IIE4MNER])
def test_all_else_stays_as_it_is_comments_too(name: str, path: Path) -> None:
    before = path.read_text(encoding="utf-8")
    changes = preset.apply(name, path)
    after = path.read_text(encoding="utf-8")
    assert comments(after) == comments(before)
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert len(changed) == len(changes)
    keys = [key.rpartition(".")[2] for key, _, _ in changes]
    for key, (old, new) in zip(keys, changed, strict=True):
        assert old.startswith(new[: new.index(":")])
        assert new.strip().startswith(f"{key}:")


def test_the_shipped_params_pass_through_unchanged(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    folder = write_preset(tmp_path / "presets", "same", "# Same\ntrain: {seed: 1}\n")
    assert preset.apply("same", path, folder) == []
    folder = write_preset(tmp_path / "presets", "there", "# There\ntrain: {seed: 5}\n")
    assert preset.apply("there", path, folder) == [("train.seed", 1, 5)]
    folder = write_preset(tmp_path / "presets", "back", "# Back\ntrain: {seed: 1}\n")
    assert preset.apply("back", path, folder) == [("train.seed", 5, 1)]
    assert path.read_bytes() == before


def test_lists_are_replaced_whole_and_mappings_merged(path: Path, tmp_path: Path) -> None:
    text = "# Own\nviews:\n  kinds: [ocr]\n  objects: {max: 3}\ntrain: {detach_teacher: false, patience: 2}\n"
    changes = preset.apply("own", path, write_preset(tmp_path / "presets", "own", text))
    assert changes == [
        ("views.kinds", ["objects", "captions", "ocr", "knowledge"], ["ocr"]),
        ("views.objects.max", 12, 3),
        ("train.detach_teacher", True, False),
        ("train.patience", None, 2),
    ]
    after = yaml.load(path).values
    assert after["views"]["kinds"] == ["ocr"]
    assert after["views"]["objects"]["separator"] == " "
    assert "# what the context holds, in this order" in path.read_text(encoding="utf-8")


def test_extends_lays_one_preset_over_another(tmp_path: Path) -> None:
    write_preset(tmp_path, "a", "# A\ntrain: {epochs: 1, weights: {alignment: 1.0, text_only: 2.0}}\n")
    write_preset(tmp_path, "b", "# B\nextends: a\ntrain: {weights: {alignment: 3.0}}\n")
    write_preset(tmp_path, "c", "# C\nextends: b\ntrain: {epochs: 7}\n")
    assert preset.read("c", tmp_path) == {"train": {"epochs": 7, "weights": {"alignment": 3.0, "text_only": 2.0}}}
    assert preset.summary("c", tmp_path) == "C"


def test_options_of_extractors_that_the_file_does_not_list_are_left_out(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    begin, end = text.index("captions:"), text.index("\nocr:")
    text = f"{text[:begin]}captions:\n  extractor: my.own:Captions\n{text[end:]}"
    path.write_text(text, encoding="utf-8")
    preset.apply("ita-snap", path)
    assert params.load(path).extraction("captions") == {"extractor": "my.own:Captions"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 0}", r"with preset bad:\d+: train\.epochs: found 0, expected greater than 0"),
        ("train: {epoch: 3}", r"with preset bad:\d+: train\.epoch: unknown key"),
        ("train: {epochs: 0", r"bad\.yaml:\d+: not YAML"),
        ("- train", r"bad\.yaml: expected sections of params, found CommentedSeq"),
        ("extends: none", r"preset 'none' \(which bad extends\): there is none of that name; there are: bad"),
        ("extends: bad", r"preset 'bad': extends itself \(bad → bad\)"),
    ],
)
def test_a_bad_preset_leaves_the_file_alone(text: str, message: str, path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    folder = write_preset(tmp_path / "presets", "bad", f"# Bad\n{text}\n")
    with pytest.raises(UserError, match=message):
        preset.apply("bad", path, folder)
    assert path.read_bytes() == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["params.yaml", "presets"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.preset", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def test_command_without_a_name_lists_presets_a_line_each() -> None:
    done = run()
    assert [line.split()[0] for line in done.stdout.splitlines()] == NAMES
    assert all(len(line.split()) > 3 for line in done.stdout.splitlines())


def test_command_shows_what_it_changed(path: Path) -> None:
    done = run("ita-twitter2017", "--file", path)
    assert done.returncode == 0, done.stderr
    assert "train.temperature: 4.0 → 2.0\n" in done.stdout
    assert 'train.encoder: "checkpoints/sample/xlm-r" → "FacebookAI/xlm-roberta-large"\n' in done.stdout
    assert run("ita-twitter2017", "--file", path).stdout == f"{path}: no settings changed\n"


def test_command_names_the_presets_when_given_another(path: Path) -> None:
    done = run("ita-twitter2016", "--file", path)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: preset 'ita-twitter2016': there is none of that name; there are: {', '.join(NAMES)}\n"
    )


def test_a_missing_or_invalid_params_file_is_named(tmp_path: Path, path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        preset.apply("ita-snap", tmp_path / "none.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("epochs: 8", "epochs: ten"), encoding="utf-8")
    with pytest.raises(UserError, match=r"params\.yaml:\d+: train\.epochs"):
        preset.apply("ita-snap", path)
