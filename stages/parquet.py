"""A run as Parquet, for the `datasets` library: `python -m stages.parquet FOLDER`; no stage of dvc.yaml.

A file a split, with posts, contexts, gold tags and what the tagger found under each condition, and a card that says
what they are. Pictures are named, not included. `data.format: datasets` reads the files again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core import records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.files import atomic_write, portable
from pipeline.core.records import Prediction, View
from pipeline.core.version import __version__
from pipeline.settings import params
from pipeline.settings.params import POST_SPLITS, Params
from stages.shared import paths


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.parquet", description="Write posts, contexts and predictions as Parquet with a card."
    )
    parser.add_argument("output", type=Path, metavar="FOLDER", help="where the files go")
    arguments = parser.parse_args()
    settings = params.load(paths.PARAMS)
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise UserError(
            "stages.parquet needs the package pyarrow, which is an extra: pip install --no-deps -r "
            "requirements-datasets.lock"
        ) from None
    found = {split: _read(split, settings) for split in POST_SPLITS}
    found = {split: (views, predictions) for split, (views, predictions) in found.items() if views}
    if not found:
        raise UserError(f"{paths.VIEWS}: no posts in any split")
    names = _names(found.values())
    columns = {name: pa.list_(pa.int64()) for name in ("ner_tags", *_columns(found.values()))}
    texts = pa.list_(pa.string())
    schema = pa.schema(
        {"id": pa.string(), "tokens": texts, "ner_tags": columns["ner_tags"], "context": pa.string(), "images": texts}
        | columns
    ).with_metadata({"huggingface": json.dumps({"info": {"features": _features(columns, names)}})})
    arguments.output.mkdir(parents=True, exist_ok=True)
    for split, (views, predictions) in found.items():
        table = pa.Table.from_pylist([_row(view, predictions, columns, names) for view in views], schema)
        with atomic_write(arguments.output / f"{split}.parquet", "wb") as file:
            parquet.write_table(table, file)
        print(f"{arguments.output / f'{split}.parquet'}: {len(views):,} posts")
    with atomic_write(arguments.output / "README.md") as file:
        file.write(card({split: len(views) for split, (views, _) in found.items()}, list(columns), names, settings))


def _read(split: str, settings: Params) -> tuple[list[View], dict[str, dict[str, Prediction]]]:
    """The views of a split, and its predictions by column and post."""
    views = list(records.read(paths.VIEWS / f"{split}.jsonl", View, "views"))
    predictions = {}
    for condition in settings.evaluate.conditions:
        path = paths.PREDICTIONS / f"{split}.{condition}.jsonl"
        if path.exists():
            predictions[f"predicted_{condition}"] = {
                each.id: each for each in records.read(path, Prediction, "evaluate")
            }
    return views, predictions


def _columns(found: Any) -> list[str]:
    return list(dict.fromkeys(name for _, predictions in found for name in predictions))


def _names(found: Any) -> list[str]:
    """The tags that occur, O first."""
    tags = {tag for views, _ in found for view in views for tag in view.labels or ()}
    tags |= {
        tag
        for _, predictions in found
        for rows in predictions.values()
        for each in rows.values()
        for tag in each.predicted
    }
    kinds = sorted({tag[2:] for tag in tags} - {""})
    return ["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")]


def _row(
    view: View, predictions: Mapping[str, Mapping[str, Prediction]], columns: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Any]:
    number = {name: place for place, name in enumerate(names)}
    row: dict[str, Any] = {"id": view.id, "tokens": view.tokens, "context": view.context, "images": view.images}
    row["ner_tags"] = None if view.labels is None else [number[tag] for tag in view.labels]
    for name in columns:
        if name != "ner_tags":
            found = predictions.get(name, {}).get(view.id)
            row[name] = None if found is None else [number[tag] for tag in found.predicted]
    return row


def _features(columns: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The columns as the `datasets` library writes them down."""
    text = {"dtype": "string", "_type": "Value"}
    texts, tags = ({"feature": each, "_type": "List"} for each in (text, {"names": list(names), "_type": "ClassLabel"}))
    return {"id": text, "tokens": texts, "ner_tags": tags, "context": text, "images": texts} | dict.fromkeys(
        columns, tags
    )


def card(splits: Mapping[str, int], columns: Sequence[str], names: Sequence[str], settings: Params) -> str:
    """The card: a YAML header that tells the hub which file is which split, then what the columns are."""
    files = "".join(f"  - split: {split}\n    path: {split}.parquet\n" for split in splits)
    rows = "\n".join(f"| {split} | {count:,} |" for split, count in splits.items())
    predicted = "".join(
        f"| `{name}` | what the tagger found under the condition `{name.removeprefix('predicted_')}`, or null |\n"
        for name in columns
        if name.startswith("predicted_")
    )
    data = json.dumps(portable(settings.data.root), ensure_ascii=False).replace("`", "'").replace("|", "/")
    return (
        "---\ntask_categories:\n- token-classification\nconfigs:\n- config_name: default\n"
        f"  data_files:\n{files}---\n\n"
        f"# Posts with contexts and predictions\n\nWritten by Sightread {__version__} from {data}.\n\n"
        f"| split | posts |\n| --- | --- |\n{rows}\n\n"
        "| column | |\n| --- | --- |\n"
        "| `id`, `tokens` | of the post |\n"
        "| `ner_tags` | gold, IOB2, or null where nobody has labelled the post |\n"
        "| `context` | what was found in its pictures and is known of it, in words |\n"
        "| `images` | names of its pictures, which are not included |\n"
        f"{predicted}\n"
        f"Tags: {', '.join(f'`{name}`' for name in names)}.\n\n"
        "The texts are their authors'. No licence is stated here: what the tweets and labels came under has to be "
        "looked up, and tweets hold names of living people.\n"
    )


if __name__ == "__main__":
    run_cli(main)
