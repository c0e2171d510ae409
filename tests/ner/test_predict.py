"""Prediction: order, confidences, formats, streams, and the command."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from ner.bioes import to_scheme
from ner.decoding import choose_device
from ner.formats import FORMATS, read_input
from ner.predict import main
from ner.predictions import conll_lines
from ner.scoring.evaluation import condition_views, derangement, evaluate
from ner.tagger import CHUNK_BATCHES, Tagger
from ner.views import collate
from pipeline.core.errors import UserError, run_cli
from pipeline.core.labels import entities
from pipeline.core.records import View
from pipeline.core.tokens import tokenize
from pipeline.corpus import conll
from pipeline.settings.params import Condition, EvaluateParams
from tests.ner.conftest import ambiguous_views, many_views

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tagger(tagger_folder: Path) -> Tagger:
    return Tagger.load(tagger_folder, "cpu")


def test_predictions_come_in_order_whatever_the_batch_size(tagger: Tagger) -> None:
    views = many_views()
    one, two = (list(tagger.predict(views, batch_size)) for batch_size in (1, 8))
    assert [prediction.id for prediction in two] == [view.id for view in views]
    for prediction, other, view in zip(one, two, views, strict=True):
        assert prediction.predicted == other.predicted
        assert prediction.tokens == view.tokens
        assert len(prediction.predicted) == len(view.tokens)
        assert [(found.start, found.end, found.type) for found in prediction.entities] == [
            tuple(entity) for entity in entities(prediction.predicted, "strict")
        ]
        for found in prediction.entities:
            assert found.text == " ".join(view.tokens[found.start : found.end])
    assert sum(len(prediction.entities) for prediction in one) > 50


def test_predictions_are_valid_iob2_without_orphans(tagger: Tagger) -> None:
    for prediction in tagger.predict(many_views()):
        assert entities(prediction.predicted, "strict") == entities(prediction.predicted, "conlleval")


def test_confidence_is_the_probability_of_the_entity_over_all_paths(tagger: Tagger) -> None:
    model, view = tagger.model, View("1", ["love", "Jordan", "Paris"], None, "photo of court")
    [prediction] = tagger.predict([view])
    with torch.no_grad():
        emissions = model.emissions(collate(tagger.encoder.encode([view], with_context=True), tagger.encoder.pad_id))[0]
    crf, scores, paths = model.crf, [], []
    for path in itertools.product(range(len(model.labels)), repeat=3):
        allowed = crf.allowed_start[path[0]] & crf.allowed_stop[path[-1]]
        allowed &= crf.allowed_transitions[path[0], path[1]] & crf.allowed_transitions[path[1], path[2]]
        if allowed:
            score = crf.start[path[0]] + crf.stop[path[-1]] + sum(emissions[t, path[t]] for t in range(3))
            score = score + crf.transitions[path[0], path[1]] + crf.transitions[path[1], path[2]]
            scores.append(score.item())
            paths.append([model.labels[label] for label in path])
    total = math.fsum(math.exp(score - max(scores)) for score in scores)
    bioes = to_scheme(prediction.predicted)
    assert prediction.entities
    for found in prediction.entities:
        mass = math.fsum(
            math.exp(score - max(scores))
            for score, path in zip(scores, paths, strict=True)
            if path[found.start : found.end] == bioes[found.start : found.end]
        )
        assert found.confidence == pytest.approx(mass / total, rel=1e-3)


def test_a_stream_is_read_no_further_than_needed(tagger: Tagger) -> None:
    read = 0

    def endless() -> Iterator[View]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield View(str(number), ["Jordan"], None, "")

    stream = tagger.predict(endless(), batch_size=2)
    for _ in range(5):
        next(stream)
    assert read <= 2 * CHUNK_BATCHES


def test_a_post_without_tokens_and_one_of_many_windows(tagger: Tagger) -> None:
    empty, long = View("e", [], None, "photo"), View("l", ["Jordan", "Paris"] * 150, None, "photo of court")
    none, whole = tagger.predict([empty, long])
    assert (none.predicted, none.entities) == ([], [])
    assert len(whole.predicted) == 300
    assert whole.context_used == "photo of court"


def test_context_used_is_empty_without_context(tagger: Tagger) -> None:
    view = View("1", ["Jordan"], ["O"], "photo of court")
    assert next(tagger.predict([view], with_context=False)).context_used == ""
    assert next(tagger.predict([view])).context_used == "photo of court"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (
            "RT @ada_l: I  love #Paris!!! 😂👍🏽 http://t.co/x?a=b :)",
            ["RT", "@ada_l", ":", "I", "love", "#Paris", "!!!", "😂", "👍🏽", "http://t.co/x?a=b", ":)"],
        ),
        ("U.S.A. isn't rock'n'roll, 3.5%", ["U.S.A", ".", "isn't", "rock'n'roll", ",", "3.5", "%"]),
        ("¿Qué tal, señor? <3", ["¿", "Qué", "tal", ",", "señor", "?", "<3"]),
        ("👩‍👩‍👧 ok", ["👩‍👩‍👧", "ok"]),
        ("", []),
        ("   ", []),
    ],
)
def test_text_is_split_into_tokens_that_keep_their_place(text: str, tokens: list[str]) -> None:
    found = tokenize(text)
    assert [token for token, _ in found] == tokens
    assert all(text[start : start + len(token)] == token for token, start in found)
    assert "".join(token for token, _ in found) == "".join(text.split())


def test_command_tags_text_from_stdin_with_character_offsets(tagger_folder: Path) -> None:
    text = "in the  Jordan :)\n\nParis 😀 @ada love #Jordan\n"
    command = [sys.executable, "-m", "ner.predict", str(tagger_folder)]
    done = subprocess.run(command, input=text, capture_output=True, cwd=ROOT, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert rows[1]["tokens"] == []
    assert any(row["entities"] for row in rows)
    for row, line in zip(rows, text.splitlines(), strict=True):
        for entity in row["entities"]:
            spelled = line[entity["start_char"] : entity["end_char"]]
            assert "".join(spelled.split()) == entity["text"].replace(" ", "")
            assert 0 < entity["confidence"] <= 1


def run_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    """The command in this process: starting Python anew costs seconds."""
    monkeypatch.setattr(sys, "argv", ["ner.predict", *map(str, arguments), "--device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        run_cli(main)
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_command_says_what_it_skips(
    tagger_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "posts.txt"
    file.write_text("-DOCSTART-\n\n# id 0a1\nParis\n", encoding="utf-8")
    code, output, errors = run_here(capsys, monkeypatch, tagger_folder, file, "--format", "conll")
    assert (code, output.count("Paris"), "DOCSTART" in output) == (0, 1, False)
    assert errors.endswith("posts.txt: 1 -DOCSTART- line skipped, 1 comment line skipped\n")


def test_command_reads_conll_and_jsonl_to_the_same_labels(
    tagger_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "posts.txt"
    lines.write_text("IMGID:7\nlove\tO\nJordan\tB-PER\n\nParis\nin\n", encoding="utf-8")
    jsonl = tmp_path / "posts.jsonl"
    rows = [{"id": "7", "tokens": ["love", "Jordan"]}, {"text": "Paris in", "id": 2}]
    jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    one = run_here(capsys, monkeypatch, tagger_folder, lines, "--format", "conll")
    two = run_here(capsys, monkeypatch, tagger_folder, jsonl, "--format", "jsonl", "--output-format", "conll")
    assert one == two
    assert one[0] == 0
    assert one[1].startswith("IMGID:7\nlove\t")
    assert one[1].count("\n\n") == 2


@pytest.mark.parametrize("format_name", FORMATS)
def test_marks_of_joined_files_are_skipped_counted_and_keep_offsets_right(
    format_name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "posts"
    one = {"text": "Hi\n", "conll": "Hi\n\n", "jsonl": '{"text": "Hi"}\n'}[format_name]
    file.write_text(f"\ufeff{one}\ufeff{one}", encoding="utf-8")
    posts = list(read_input(str(file), format_name))
    assert [view.tokens for view, _ in posts] == [["Hi"], ["Hi"]]
    if format_name == "text":
        assert [starts for _, starts in posts] == [[0], [1]]
    assert capsys.readouterr().err == f"{file}: 1 further byte-order mark skipped\n"


def test_lines_separated_by_spaces_are_refused_in_the_words_of_the_stages(tmp_path: Path) -> None:
    file = tmp_path / "posts.conll"
    file.write_text("IMGID:1\nJordan B-LOC\nrocks O\n", encoding="utf-8")
    messages = []
    for read in (conll.read, lambda path: list(read_input(str(path), "conll"))):
        with pytest.raises(UserError, match=r"posts\.conll:2: 'Jordan B-LOC' and every other line") as caught:
            read(file)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tokens": ["a"]', "posts.jsonl:2: not JSON"),
        ('{"id": "1"}', "posts.jsonl:2: expected an object with either `tokens` or `text`"),
        ('{"tokens": ["a", 3]}', "posts.jsonl:2: tokens: expected a list of strings"),
        ('{"tokens": ["a"], "labels": [3]}', "posts.jsonl:2: labels: expected null or 1 labels"),
        ('{"text": "\\ud83d"}', "posts.jsonl:2: holds an unpaired surrogate"),
        ('{"text": 5}', "posts.jsonl:2: text: expected a string, found int"),
        ('{"tokens": ["a"], "labels": []}', "posts.jsonl:2: labels: expected null or 1 labels"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "posts.jsonl"
    file.write_text(f'{{"tokens": ["a"]}}\n{line}\n', encoding="utf-8")
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        list(read_input(str(file), "jsonl"))


def test_command_errors_are_one_line(
    tagger_folder: Path,
    xlm_r_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes("ok\ncaf\xe9\n".encode("latin-1"))
    for arguments, message in (
        ((tagger_folder, tmp_path / "none.txt"), "none.txt: no such file"),
        ((xlm_r_folder,), "expected a tagger"),
        ((tagger_folder, latin), "latin.txt:2: not UTF-8"),
        ((tagger_folder, latin, "--batch-size", "0"), "--batch-size: expected at least 1, found 0"),
    ):
        status, _, error = run_here(capsys, monkeypatch, *arguments)
        assert status == 2
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"execution.device: 'cuda:99'"):
        choose_device("cuda:99")
    with pytest.raises(UserError, match=r"execution.device: 'mps' has no float64"):
        choose_device("mps")


def test_a_post_whose_id_is_null_is_called_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "posts.jsonl"
    file.write_text('{"id": null, "text": "a"}\n{"text": "b"}\n{"id": 0, "text": "c"}\n', encoding="utf-8")
    assert [view.id for view, _ in read_input(str(file), "jsonl")] == ["1", "2", "0"]


@pytest.mark.parametrize("n", [2, 3, 7, 100])
def test_shuffled_gives_every_post_the_context_of_another(n: int) -> None:
    for seed in range(20):
        order = derangement(n, seed)
        assert sorted(order) == list(range(n))
        assert all(place != other for place, other in enumerate(order))
        assert order == derangement(n, seed)
    views = [View(str(number), ["a"], ["O"], f"context {number}") for number in range(n)]
    shuffled = condition_views(views, "shuffled", EvaluateParams(conditions=["shuffled"]))
    assert sorted(view.context for view in shuffled) == sorted(view.context for view in views)
    assert all(one.context != other.context and one.id == other.id for one, other in zip(views, shuffled, strict=True))


def test_conditions_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="at least two posts"):
        derangement(1, 0)
    with pytest.raises(UserError, match="'upside_down'"):
        condition_views([], "upside_down", EvaluateParams(conditions=["shuffled"]))


def test_noised_and_missing_change_a_share_of_the_posts() -> None:
    views = [View(str(number), ["a"], ["O"], f"context {number}", [f"{number}.jpg"]) for number in range(100)]

    def seen(condition: str, **options: Any) -> list[View]:
        return condition_views(views, condition, EvaluateParams(conditions=["text_only"], **options))

    for share, n in ((0.3, 30), (1.0, 100), (0.001, 2)):
        noised = seen("noised", noised_share=share)
        moved = [place for place, (one, other) in enumerate(zip(views, noised, strict=True)) if one != other]
        assert len(moved) == n
        assert sorted(view.context for view in noised) == sorted(view.context for view in views)
        for one, other in zip(views, noised, strict=True):
            assert (one.id, one.tokens, one.labels) == (other.id, other.tokens, other.labels)
            assert other.context.removeprefix("context ") == other.images[0].removesuffix(".jpg"), "pictures go along"
    for share, n in ((0.3, 30), (1.0, 100), (0.001, 1)):
        missing = seen("missing", missing_share=share)
        assert sum((view.context, view.images) == ("", []) for view in missing) == n
        assert sum(one == other for one, other in zip(views, missing, strict=True)) == 100 - n

    def without(share: float, seed: int = 1) -> set[str]:
        return {view.id for view in seen("missing", missing_share=share, shuffle_seed=seed) if not view.context}

    assert without(0.2) < without(0.4)
    assert without(0.2) != without(0.2, seed=2)
    assert seen("noised") == seen("noised")
    assert condition_views([], "noised", EvaluateParams(conditions=["noised"])) == []
    with pytest.raises(UserError, match="at least two posts"):
        condition_views(views[:1], "noised", EvaluateParams(conditions=["noised"]))


def test_one_tagger_is_scored_under_every_condition(tagger: Tagger) -> None:
    views = ambiguous_views(12, seed=3)
    params = EvaluateParams(conditions=["cross_modal", "text_only", "shuffled"], bootstrap_samples=20)
    results = evaluate(tagger, views, params, batch_size=4)
    assert list(results) == ["cross_modal", "text_only", "shuffled"]
    assert {prediction.context_used for prediction in results["text_only"][1]} == {""}
    assert [prediction.context_used for prediction in results["cross_modal"][1]] == [view.context for view in views]
    for scores, predictions in results.values():
        assert [prediction.labels for prediction in predictions] == [view.labels for view in views]
        assert scores["strict"]["micro"]["support"] == 12
        assert len(scores["strict"]["micro"]["f1_ci"] or []) == 2


def test_a_split_without_labels_is_predicted_and_not_scored(tagger: Tagger) -> None:
    views = [replace(view, labels=None) for view in ambiguous_views(5, seed=3)]
    params = EvaluateParams(conditions=list(get_args(Condition)), bootstrap_samples=20)
    results = evaluate(tagger, views, params)
    assert {condition: scores for condition, (scores, _) in results.items()} == {"cross_modal": {}, "text_only": {}}
    assert [prediction.id for prediction in results["cross_modal"][1]] == [view.id for view in views]
    assert evaluate(tagger, [], params) == {"cross_modal": ({}, []), "text_only": ({}, [])}
    with pytest.raises(UserError, match="post 0 has no labels to score against, but others of its split do"):
        evaluate(tagger, [views[0], *ambiguous_views(2, seed=3)], params)


def test_the_context_of_a_view_is_used_unless_told_otherwise(
    tagger_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    views = [replace(view, labels=None) for view in ambiguous_views(6, seed=3)]
    file = tmp_path / "views.jsonl"
    file.write_text("".join(json.dumps(asdict(view)) + "\n" for view in views), encoding="utf-8")
    for options, used in (((), [view.context for view in views]), (("--text-only",), [""] * 6)):
        status, output, _ = run_here(capsys, monkeypatch, tagger_folder, file, "--format", "jsonl", *options)
        assert status == 0
        assert [json.loads(line)["context_used"] for line in output.splitlines()] == used


def test_a_very_long_post_takes_no_others_along(tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through the CRF together is padded to the longest, so it is bounded by that and not by posts."""
    shapes: list[tuple[int, ...]] = []
    viterbi = tagger.model.crf.viterbi

    def listen(emissions: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shapes.append(tuple(mask.shape))
        return viterbi(emissions, mask)

    monkeypatch.setattr(tagger.model.crf, "viterbi", listen)
    monkeypatch.setattr("ner.decoding.MOST_DECODED_TOKENS", 1000)
    long = View("long", ["love", "Jordan"] * 400, None, "")
    views = [*many_views(), long]
    found = list(tagger.predict(views))
    assert max(n_posts * length for n_posts, length in shapes) <= 1000
    assert [len(prediction.predicted) for prediction in found] == [len(view.tokens) for view in views]
    assert found[-1].predicted == next(tagger.predict([long])).predicted


def test_a_token_that_spells_an_id_line_comes_back_as_a_token(tagger: Tagger, tmp_path: Path) -> None:
    [prediction] = tagger.predict([View("7", ["IMGID:9", "love"], None, "")])
    (tmp_path / "out.conll").write_text(conll_lines(prediction), encoding="utf-8")
    [(view, _)] = read_input(str(tmp_path / "out.conll"), "conll")
    assert (view.id, view.tokens, view.labels) == ("7", ["IMGID:9", "love"], prediction.predicted)


def test_a_closed_stdin_is_said(tagger_folder: Path) -> None:
    command = [sys.executable, "-m", "ner.predict", str(tagger_folder)]
    done = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *command], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: stdin is closed; expected posts on it, or the name of a FILE to tag\n"
