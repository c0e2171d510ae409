"""Scores against seqeval, hand-made cases and the counts of real data."""

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from seqeval.metrics import classification_report, f1_score
from seqeval.scheme import IOB2

from ner.predictions import conll_lines
from ner.scoring.comparison import compare, compare_runs, overlap_scores, sign_flip
from ner.scoring.f1 import CONFIDENCE, SAMPLES, SEED, confusion, score
from pipeline.core.records import Prediction
from pipeline.corpus import conll
from pipeline.corpus.dataset import each_of_split
from pipeline.settings.params import DataParams, EvaluateParams

ROOT = Path(__file__).resolve().parents[3]


def random_labels(rng: random.Random, n_posts: int) -> list[list[str]]:
    every = ["O", "O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
    return [[rng.choice(every) for _ in range(rng.randrange(1, 12))] for _ in range(n_posts)]


@pytest.mark.parametrize("seed", range(5))
def test_both_readings_agree_with_seqeval(seed: int) -> None:
    rng = random.Random(seed)
    gold = random_labels(rng, 60)
    predicted = [
        [label if rng.random() < 0.7 else rng.choice(["O", "B-PER", "I-PER", "I-LOC"]) for label in labels]
        for labels in gold
    ]
    found = score(gold, predicted)
    # seqeval's default is conlleval's reading; its IOB2 in strict mode is ours.
    for reading, options in (("conlleval", {}), ("strict", {"mode": "strict", "scheme": IOB2})):
        assert found[reading]["micro"]["f1"] == pytest.approx(f1_score(gold, predicted, **options))
        report = classification_report(gold, predicted, output_dict=True, zero_division=0, **options)
        for name in ("PER", "LOC", "ORG"):
            ours = dict(found[reading][name])
            for key, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
                assert ours[key] == pytest.approx(report[name][theirs]), (reading, name, key)
            assert found[reading][name]["support"] == report[name]["support"]


def test_orphans_count_under_conlleval_alone() -> None:
    gold, predicted = [["O", "I-PER", "I-PER", "O"]], [["O", "B-PER", "I-PER", "O"]]
    found = score(gold, predicted)
    assert found["conlleval"]["micro"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1, "f1_ci": None}
    assert found["strict"]["micro"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0, "f1_ci": None}


def test_borders_and_types_must_both_be_right() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG"]]
    predicted = [["B-PER", "O", "O", "B-LOC"], ["B-PER"]]
    found = score(gold, predicted)["strict"]
    assert found["micro"]["precision"] == found["micro"]["recall"] == pytest.approx(1 / 3)
    assert found["PER"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1, "f1_ci": None}
    assert found["LOC"]["f1"] == 1.0
    assert found["ORG"]["recall"] == 0.0


def test_confusion_pairs_every_span_that_either_side_names() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "I-ORG"]]
    predicted = [["B-PER", "O", "O", "B-ORG"], ["O", "B-ORG"]]
    assert sorted(confusion(gold, predicted)) == [("LOC", "ORG"), ("ORG", "ORG"), ("PER", "none"), ("none", "PER")]


def test_nothing_to_find_and_nothing_found_is_zero_not_an_error() -> None:
    assert score([["O"]], [["O"]], bootstrap_samples=10)["strict"]["micro"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "support": 0,
        "f1_ci": [0.0, 0.0],
    }


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="post 1: 2 gold labels, 1 predicted"):
        score([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match="1 posts of gold labels, 2"):
        score([["O"]], [["O"], ["O"]])


def noisy_pair(seed: int) -> tuple[list[list[str]], list[list[str]]]:
    rng = random.Random(seed)
    gold = random_labels(rng, 40)
    return gold, [[label if rng.random() < 0.8 else "O" for label in labels] for labels in gold]


def test_bootstrap_equals_resampling_posts_one_by_one() -> None:
    gold, predicted = noisy_pair(0)
    values = [
        score([gold[post] for post in drawn], [predicted[post] for post in drawn])["strict"]["micro"]["f1"]
        for drawn in np.random.default_rng(4).integers(40, size=(200, 40))
    ]
    micro = score(gold, predicted, bootstrap_samples=200, confidence=0.9, seed=4)["strict"]["micro"]
    assert micro["f1_ci"] == pytest.approx(list(np.quantile(values, [0.05, 0.95])))
    assert micro["f1_ci"] is not None
    assert micro["f1_ci"][0] < micro["f1"] < micro["f1_ci"][1]


def test_comparison_equals_drawing_the_same_posts_for_both_systems() -> None:
    gold, one = noisy_pair(0)
    rng = random.Random(3)
    other = [[label if rng.random() < 0.9 else "O" for label in labels] for labels in gold]
    samples, seed = 300, 5

    def f1(system: list[list[str]], drawn: np.ndarray) -> float:
        return score([gold[post] for post in drawn], [system[post] for post in drawn])["strict"]["micro"]["f1"]

    difference = f1(other, np.arange(40)) - f1(one, np.arange(40))
    draws = [
        f1(other, drawn) - f1(one, drawn) for drawn in np.random.default_rng(seed).integers(40, size=(samples, 40))
    ]
    found = compare(gold, one, other, samples=samples, confidence=0.8, seed=seed)["strict"]
    assert found["difference"] == pytest.approx(difference)
    assert found["difference_ci"] == pytest.approx(list(np.quantile(draws, [0.1, 0.9])))
    assert difference > 0
    beyond = sum(value > 2 * difference for value in draws)
    assert found["p_value"] == (beyond + 1) / (samples + 1)
    swapped = compare(gold, other, one, samples=samples, confidence=0.8, seed=seed)["strict"]
    assert swapped["difference"] == -found["difference"]
    assert swapped["p_value"] == found["p_value"]


def test_systems_that_score_alike_do_not_differ() -> None:
    gold, system = noisy_pair(2)
    for one, other in ((system, system), (gold, gold), ([["O"] * len(labels) for labels in gold],) * 2):
        for row in compare(gold, one, other, samples=20).values():
            assert row == {"difference": 0.0, "difference_ci": [0.0, 0.0], "p_value": 1.0}


def test_a_clear_difference_is_significant_and_a_hair_is_not() -> None:
    rng = random.Random(1)
    gold = [["B-PER", "O", "B-LOC"] for _ in range(300)]
    worse = [[label if rng.random() < 0.8 else "O" for label in labels] for labels in gold]
    hair = [list(labels) for labels in worse]
    hair[next(index for index, labels in enumerate(worse) if labels[0] == "O")][0] = "B-PER"
    assert compare(gold, worse, gold)["strict"]["p_value"] == 1 / 1001
    assert compare(gold, worse, hair)["strict"]["p_value"] > 0.05


def test_systems_of_several_runs_are_compared_by_their_means_on_the_same_draws() -> None:
    gold, one = noisy_pair(4)
    rng = random.Random(5)
    runs = [[[label if rng.random() < 0.9 else "O" for label in labels] for labels in gold] for _ in range(3)]
    samples, seed = 100, 6

    def f1(system: list[list[str]], drawn: np.ndarray) -> float:
        return score([gold[post] for post in drawn], [system[post] for post in drawn])["strict"]["micro"]["f1"]

    def difference(drawn: np.ndarray) -> float:
        return float(
            np.mean([f1(run, drawn) for run in runs[1:]]) - np.mean([f1(run, drawn) for run in (one, runs[0])])
        )

    draws = [difference(drawn) for drawn in np.random.default_rng(seed).integers(40, size=(samples, 40))]
    found = compare_runs(gold, [one, runs[0]], runs[1:], samples=samples, confidence=0.8, seed=seed)["strict"]
    assert found["difference"] == pytest.approx(difference(np.arange(40)))
    assert found["difference_ci"] == pytest.approx(list(np.quantile(draws, [0.1, 0.9])))


@pytest.mark.parametrize("differences", [[1.0, 2.0, 0.5], [1.0, -2.0, 0.5, 0.1], [0.3, 0.3, -0.3], [0.0, 0.0], [-1.0]])
def test_the_test_over_seeds_counts_choices_of_signs(differences: list[float]) -> None:
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    wanted = sum(abs(each) >= abs(sum(differences)) - 1e-9 for each in sums) / len(sums)
    assert sign_flip(differences) == wanted
    assert wanted >= 2 / 2 ** len(differences)


def test_three_seeds_that_agree_are_worth_a_quarter() -> None:
    assert sign_flip([0.1, 0.7, 0.3]) == 0.25
    with pytest.raises(ValueError, match="0 differences; expected 1 to 20"):
        sign_flip([])


def test_intervals_are_those_of_evaluate_wherever_the_same_posts_are_scored() -> None:
    fields = EvaluateParams.model_fields
    names = ("bootstrap_samples", "confidence", "bootstrap_seed")
    assert tuple(fields[name].default for name in names) == (SAMPLES, CONFIDENCE, SEED)


def test_lenient_measures_count_overlaps() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC", "O"], ["I-ORG", "O"]]
    predicted = [["B-PER", "O", "O", "B-ORG", "B-LOC"], ["B-ORG", "O"]]
    found = overlap_scores(gold, predicted)
    # Partial: Jordan's half, LOC's place and ORG whole, one too many: (0.5 + 1 + 1) of 4 predicted and of 3 gold.
    assert found["nervaluate_partial"]["micro"]["precision"] == 2.5 / 4
    assert found["nervaluate_partial"]["micro"]["recall"] == pytest.approx(2.5 / 3)
    # Type: PER overlaps a PER, ORG is an ORG, the other ORG stands on a LOC, LOC on nothing.
    assert found["nervaluate_type"]["micro"]["precision"] == 2 / 4
    assert found["nervaluate_type"]["micro"]["recall"] == pytest.approx(2 / 3)
    assert found["nervaluate_type"]["PER"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1, "f1_ci": None}
    assert [found["nervaluate_type"][name]["support"] for name in ("micro", "PER", "LOC", "ORG")] == [3, 1, 1, 1]


def test_lenient_measures_of_nothing_are_zero() -> None:
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0, "f1_ci": None}
    for gold in ([], [["O", "O"]]):
        assert overlap_scores(gold, gold) == {
            "nervaluate_partial": {"micro": nothing},
            "nervaluate_type": {"micro": nothing},
        }


@pytest.mark.parametrize("seed", range(3))
def test_lenient_measures_are_never_below_strict_ones(seed: int) -> None:
    gold, predicted = noisy_pair(seed)
    strict, lenient = score(gold, predicted)["conlleval"]["micro"], overlap_scores(gold, predicted)
    assert all(rows["micro"]["f1"] >= strict["f1"] for rows in lenient.values())


def test_bootstrap_depends_on_its_seed_alone() -> None:
    one, two, three = (score(*noisy_pair(1), bootstrap_samples=100, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one != three


@pytest.mark.real_data
def test_twitter2015_has_the_entities_its_readme_counts(real_data: Path) -> None:
    labels = [post.labels or [] for post in conll.read(real_data / "twitter2015" / "test.txt")]
    found = score(labels, labels)
    assert found["conlleval"]["micro"]["support"] == 5207
    assert found["strict"]["micro"]["support"] == 5072


GOLD = "IMGID:1\nParis\tB-LOC\nin\tO\n\nIMGID:2\nAda\tB-PER\n\n"


def run_scoring(
    tmp_path: Path, gold: str, predicted: str, *options: str, other: str | None = None
) -> subprocess.CompletedProcess[str]:
    texts = {"gold": gold, "predicted": predicted} | ({} if other is None else {"other": other})
    files = []
    for name, text in texts.items():
        files.append(str(tmp_path / f"{name}.txt"))
        Path(files[-1]).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "ner.scoring", *files, *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_command_aligns_by_id_and_prints_json(tmp_path: Path) -> None:
    predicted = "IMGID:2\nAda\tB-PER\n\nIMGID:1\nParis\tB-PER\nin\tO\n"
    done = run_scoring(tmp_path, GOLD, predicted, "--json", "--bootstrap-samples", "50")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"conlleval", "strict", "nervaluate_partial", "nervaluate_type"}
    assert found["strict"]["micro"]["recall"] == 0.5
    assert set(found["strict"]["LOC"]) == {"precision", "recall", "f1", "support", "f1_ci"}


def test_command_tests_two_systems_against_each_other(tmp_path: Path) -> None:
    worse, better = GOLD.replace("B-PER", "O"), GOLD
    done = run_scoring(tmp_path, GOLD, worse, "--json", "--bootstrap-samples", "50", other=better)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"predicted", "other", "comparison"}
    assert found["other"]["strict"]["micro"]["f1"] == 1.0
    difference = found["other"]["strict"]["micro"]["f1"] - found["predicted"]["strict"]["micro"]["f1"]
    assert found["comparison"]["strict"]["difference"] == pytest.approx(difference)
    assert set(found["comparison"]["conlleval"]) == {"difference", "difference_ci", "p_value"}
    printed = run_scoring(tmp_path, GOLD, worse, "--bootstrap-samples", "50", other=better).stdout
    assert "OTHER - PREDICTED" in printed
    assert "+33.33" in printed
    refused = run_scoring(tmp_path, GOLD, worse, "--bootstrap-samples", "0", other=better)
    assert refused.returncode == 2
    assert "takes at least one sample" in refused.stderr
    empty = run_scoring(tmp_path, "", worse, other=better)
    assert empty.returncode == 2
    assert "gold.txt: no posts" in empty.stderr


def test_command_prints_a_table_without_json(tmp_path: Path) -> None:
    done = run_scoring(tmp_path, GOLD, GOLD)
    assert done.stdout.splitlines()[0].split() == ["conlleval", "precision", "recall", "f1", "support"]
    assert "100.00" in done.stdout


def test_command_names_the_first_differing_token_without_a_traceback(tmp_path: Path) -> None:
    done = run_scoring(tmp_path, GOLD, GOLD.replace("in\t", "on\t"))
    assert done.returncode == 2
    assert "post 1: token 2 is 'in'" in done.stderr
    assert "Traceback" not in done.stderr


def test_predictions_of_a_split_are_scored_by_its_raw_file(tmp_path: Path) -> None:
    gold = "IMGID:1\nParis\tB-LOC\n\nIMGID:1\nAda\tB-PER\n\n"
    (tmp_path / "test.txt").write_text(gold, encoding="utf-8")
    posts = list(each_of_split(DataParams(root=tmp_path, test=["test.txt"]), "test"))
    predictions = [Prediction(post.id, post.tokens, post.labels, post.labels or [], [], "") for post in posts]
    done = run_scoring(tmp_path, gold, "".join(map(conll_lines, predictions)), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["strict"]["micro"]["f1"] == 1.0


def test_command_gives_the_intervals_of_the_pipeline_in_whatever_order_posts_stand_and_says_what_they_are(
    tmp_path: Path,
) -> None:
    posts = {
        f"{number:02}": ("B-LOC" if number % 3 else "O", "B-LOC" if number % 2 else "B-PER") for number in range(30)
    }

    def file(side: int, ids: list[str]) -> str:
        return "\n".join(f"IMGID:{name}\nParis\t{posts[name][side]}\n" for name in ids)

    ordered = score(
        [[posts[name][0]] for name in sorted(posts)],
        [[posts[name][1]] for name in sorted(posts)],
        bootstrap_samples=1000,
        seed=EvaluateParams(conditions=["text_only"]).bootstrap_seed,
    )
    names = sorted(posts, key=lambda name: (int(name) * 7) % 30)
    done = run_scoring(tmp_path, file(0, names), file(1, names), "--json")
    assert json.loads(done.stdout)["strict"] == ordered["strict"]
    told = run_scoring(tmp_path, file(0, names), file(1, names), other=file(0, names)).stdout
    assert "[low, high]: 95 % confidence interval of F1, by a bootstrap over posts (1,000 samples, seed 1)" in told
    assert "p: one-sided, of the system that scored better" in told
    assert "nervaluate_partial: borders alone" in told
