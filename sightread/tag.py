"""`python -m stages.tag MODEL [FILE]`, `sightread tag MODEL [FILE]`: posts and their pictures → entities, as they come.

Each row of the output has the entities found with the pictures and those found without them. A row that is no post, or
a picture that cannot be read, says so and stops nothing.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from ner.scoring.f1 import score
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress
from sightread import rows
from sightread.report import Gathered
from sightread.tagging import CHUNK, Sightread, Tagged, line

PARAMS = Path("params.yaml")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a tagger's folder, or OWNER/NAME on the hub")
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="posts; - or nothing: stdin")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of the pictures; without: text alone")
    parser.add_argument(
        "--params", type=Path, metavar="FILE", help="which extractors read the pictures [params.yaml, with --images]"
    )
    parser.add_argument(
        "--format",
        choices=rows.FORMATS,
        default="auto",
        help="text: a post a line; jsonl, csv: `text` or `tokens`, perhaps `id`, `labels`, `images`; conll "
        "[by the file's name or its first line]",
    )
    parser.add_argument(
        "--image-name",
        metavar="NAME",
        help="how an id names the picture of a row that names none, such as {id}.jpg; of lines of text, whose ids are "
        "their numbers, only where it is given [data.image_name of params]",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FOLDER",
        help="also write a page there with every post, its pictures and what was found, and scores of labelled posts",
    )
    parser.add_argument("--revision", help="commit, branch or tag of a tagger on the hub")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, … [execution.device of params, or auto]")
    parser.add_argument(
        "--chunk", type=int, default=CHUNK, metavar="N", help="posts that are read together [%(default)s]"
    )


def run(arguments: argparse.Namespace) -> None:
    """Tag the posts that the arguments name; rows go to stdout, the summary to stderr."""
    if arguments.chunk < 1:
        raise UserError(f"--chunk: expected at least 1, found {arguments.chunk}")
    if arguments.image_name is not None and arguments.image_name.count("{id}") != 1:
        raise UserError(f"--image-name: expected a name with {{id}} in it once, found {arguments.image_name!r}")
    with Sightread.load(
        arguments.model, params_of(arguments), device=arguments.device, revision=arguments.revision
    ) as tagger:
        image_name = arguments.image_name
        if image_name is None and tagger.reader is not None:
            image_name = tagger.reader.settings.data.image_name
        read = rows.read(
            arguments.file,
            arguments.format,
            tagger.tagger.split,
            image_name,
            of_lines=arguments.image_name is not None,
        )
        counts, gathered = Counts(), _gathered(arguments, tagger)
        with Progress("tag", "post") as progress:
            for found in tagger.stream(read, arguments.images, arguments.chunk):
                sys.stdout.write(line(found) + "\n")
                counts.add(found)
                if gathered is not None and isinstance(found, Tagged):
                    gathered.add(found)
                progress.update()
        sys.stdout.flush()
        if gathered is not None:
            name = "stdin" if arguments.file == "-" else Path(arguments.file).name
            gathered.write(arguments.report, name, str(arguments.model), arguments.images)
    print(counts, file=sys.stderr)
    if gathered is not None:
        print(f"{arguments.report / 'index.html'}: the posts, their pictures and what was found", file=sys.stderr)


def _gathered(arguments: argparse.Namespace, tagger: Sightread) -> Gathered | None:
    """Where posts are gathered for `--report`.

    Raises:
        UserError: there are no params, which say how posts are scored and shown.
    """
    if arguments.report is None:
        return None
    if tagger.reader is None:
        raise UserError("--report: expected --params FILE as well, which says how posts are scored and shown")
    return Gathered(tagger.reader.settings, tagger.reader)


def params_of(arguments: argparse.Namespace) -> Path | None:
    """The params that say what reads pictures; None where none are to be read.

    Raises:
        UserError: there are pictures, and no params.
    """
    given: Path | None = arguments.params
    if given is None and arguments.images is not None:
        if not PARAMS.exists():
            raise UserError(
                "--images: no params.yaml here; expected --params FILE, the params that the tagger was trained with, "
                "which say what reads pictures"
            )
        return PARAMS
    return given


class Counts:
    """What became of rows and pictures, for the summary."""

    def __init__(self) -> None:
        self.posts = self.changed = 0
        self.rows: list[str] = []
        self.pictures: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.entities: Counter[str] = Counter()
        self.gold: list[list[str]] = []
        self.found: tuple[list[list[str]], list[list[str]]] = ([], [])

    def add(self, found: Tagged | rows.Row) -> None:
        """Count what was found in a row."""
        if isinstance(found, rows.Row):
            self.rows.append(found.error or "")
            return
        self.posts += 1
        self.changed += found.changed
        if found.post.labels is not None:
            self.gold.append(found.post.labels)
            self.found[0].append(found.alone.predicted)
            self.found[1].append(found.seen.predicted)
        self.pictures.update(picture.row.status for picture in found.pictures)
        self.failed.update(
            kind
            for picture in found.pictures
            if picture.row.status == "ok"
            for kind, each in picture.found.items()
            if each.status != "ok"
        )
        self.entities["with"] += len(found.entities)
        self.entities["without"] += len(found.alone.entities)

    def __str__(self) -> str:
        parts = [f"{_counted(self.posts, 'post')}, {_counted(self.entities['without'], 'entit')} by text alone"]
        if self.pictures:
            by_status = ", ".join(f"{count:,} {status}" for status, count in self.pictures.most_common())
            parts[0] += f", {self.entities['with']:,} with pictures; {_counted(self.changed, 'post')} changed by the "
            parts[0] += "pictures"
            parts.append(f"{_counted(self.pictures.total(), 'picture')}: {by_status}")
        if self.gold:
            of = "" if len(self.gold) == self.posts else f" of the {len(self.gold):,} with labels"
            figures = [100 * score(self.gold, found)["strict"]["micro"]["f1"] for found in self.found]
            with_pictures = f", {figures[1]:.2f} with pictures" if self.pictures else ""
            parts.append(f"strict micro-F1{of}: {figures[0]:.2f} by text alone{with_pictures}")
        if self.failed:
            parts.append("not read: " + ", ".join(f"{kind} of {count:,}" for kind, count in self.failed.items()))
        if self.rows:
            parts.append(f"{_counted(len(self.rows), 'row')} not read, the first: {self.rows[0]}")
        return "; ".join(parts)


def _counted(count: int, what: str) -> str:
    one, many = ("y", "ies") if what == "entit" else ("", "s")
    return f"{count:,} {what}{one if count == 1 else many}"


def main(prog: str | None = None) -> None:
    """The command line; see ``--help``. `prog` is what it is called, where its script's name does not say it."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Find named entities in posts, with their pictures and without them."
    )
    add_arguments(parser)
    run(parser.parse_intermixed_args())
