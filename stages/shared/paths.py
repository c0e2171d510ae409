"""Where the stages find each other's files, relative to the folder of dvc.yaml."""

from pathlib import Path

PARAMS = Path("params.yaml")
CHECKED = Path("data/checked")
POSTS = Path("data/posts")
RELATION = POSTS / "relation.jsonl"
POSTS_REPORT = POSTS / "report.json"
IMAGES = Path("data/images.jsonl")
CONTEXTS = Path("data/contexts")
FEATURES = Path("data/features")
VIEWS = Path("data/views")
SOURCES = VIEWS / "sources.json"
PREDICTIONS = Path("data/predictions")
TAGGER = Path("models/tagger")
ANALYSIS = Path("metrics/analysis.json")
EVALUATION = Path("metrics/evaluation.json")
SCORES = Path("metrics/scores")
RUNS = Path("metrics/runs")
CURVES = Path("plots/training")
CONFUSION = Path("plots/confusion")
REPORT = Path("report")
MODEL_CARD = REPORT / "model_card.md"
