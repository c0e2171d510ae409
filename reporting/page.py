"""The page and its assets on disk: Jinja's templates with autoescape, the style sheet and scripts, the gallery's data.

Everything is beside the page and nothing is fetched, so it opens from a folder as from a server. Other modules
compute what it says.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ner.scoring.error_analysis import GLOSSES as ERROR_GLOSSES
from pipeline.core.files import atomic_write
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.version import __version__
from reporting.charts import interval_chart, line_chart, reliability_chart
from reporting.gallery import gallery
from reporting.scores import NAMES, entity_types, glosses, score_splits
from reporting.sources import Results
from reporting.summary import count, summarise
from reporting.text import visible

HERE = Path(__file__).resolve().parent
ASSETS = ("report.css", "theme.js", "gallery.js")
DATA_VARIABLE = "sightreadPosts"
"""The global of assets/posts.js."""

_LOSSES = {
    "train/nll_cross_modal": "cross-modal",
    "train/nll_text_only": "text-only",
    "train/alignment": "alignment",
    "train/teacher": "saved teachers",
    "train/loss": "total",
}
_DEV = {"dev/f1_cross_modal": "cross-modal", "dev/f1_text_only": "text-only"}


def environment() -> Environment:
    """Jinja for all pages: every value is escaped, an unknown one is an error."""
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "percent": lambda fraction: f"{100 * fraction:.2f}",
        "interval": lambda bounds: "" if bounds is None else f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]",
        "points": lambda fraction: f"{100 * fraction:+.2f}".replace("-", "−"),
        "number": lambda value: f"{value:,}",
        "duration": duration,
        "visible": visible,
        "setting": lambda value: visible(json.dumps(value, ensure_ascii=False), 200),
    }
    found.globals |= {"count": count, "names": NAMES, "kinds_of_error": ERROR_GLOSSES, "version": __version__}
    return found


def write(results: Results, thumbnails: Mapping[str, str], output: Path) -> None:
    """Write output/index.html and output/assets/ (but for the thumbnails, which are there)."""
    types = entity_types(results)
    splits = score_splits(results, types)
    curves = results.curves
    charts = [
        line_chart(
            "Training loss",
            "mean over the epoch's tweets",
            {name: curves[key] for key, name in _LOSSES.items() if key in curves},
        ),
        line_chart(
            "F1 on dev",
            "strict, per cent",
            {name: [(x, 100 * y) for x, y in curves[key]] for key, name in _DEV.items() if key in curves},
        ),
    ]
    headline = next((split for split in splits if split.rows), None)
    data = gallery(results, types, thumbnails)
    page = (
        environment()
        .get_template("index.html.j2")
        .render(
            summary=summarise(results, types),
            splits=splits,
            headline=headline,
            settings=results.settings,
            glosses=glosses(results.settings.evaluate),
            intervals=interval_chart(headline, "strict") if headline else None,
            charts=[chart for chart in charts if chart],
            reliabilities=[
                chart
                for condition, analysis in (headline.analyses.items() if headline else ())
                if (chart := reliability_chart(NAMES[condition], analysis))
            ],
            temperatures=results.analyses["temperatures"],
            n_posts=len(data["posts"]),
            drawn=[kind for kind in TEXT_KINDS.values() if kind.drawn],
            attends=any(post["attention"] for post in data["posts"]),
        )
    )
    write_assets(output / "assets")
    with atomic_write(output / "assets" / "posts.js") as file:
        file.write(script(DATA_VARIABLE, data))
    with atomic_write(output / "index.html") as file:
        file.write(page)


def write_assets(folder: Path) -> None:
    """Copy the style sheet and the scripts, which all pages share."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        shutil.copyfile(HERE / "assets" / name, folder / name)


def script(variable: str, value: Any) -> str:
    """JavaScript that sets a global to a JSON value.

    A page opened from disk may not fetch JSON, but it may load a script. The value stands in it as a string for
    JSON.parse, which is faster than a literal and gives no key (`__proto__`) a meaning of its own; nothing in it can
    end the string, the line or the script.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escaped in (
        ("\\", "\\\\"),
        ("'", "\\'"),
        ("<", "\\x3c"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(character, escaped)
    return f"\"use strict\";\nconst {variable} = JSON.parse('{text}');\n"


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
