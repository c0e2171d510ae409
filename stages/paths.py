"""Where the stages find each other's files, relative to the folder that holds dvc.yaml."""

from pathlib import Path

PARAMS = Path("params.yaml")
POSTS = Path("data/posts")
POSTS_REPORT = POSTS / "report.json"
IMAGES = Path("data/images.jsonl")
CONTEXTS = Path("data/contexts")
VIEWS = Path("data/views")
SOURCES = VIEWS / "sources.json"
PREDICTIONS = Path("data/predictions")
TAGGER = Path("models/tagger")
EVALUATION = Path("metrics/evaluation.json")
RUNS = Path("metrics/runs")
CURVES = Path("plots/training")
CONFUSION = Path("plots/confusion")
REPORT = Path("report")
MODEL_CARD = REPORT / "model_card.md"
