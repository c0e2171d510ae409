"""`python -m ner.predict MODEL [FILE]`: entities of texts, CoNLL files or JSON Lines, as they come.

In Python: ``from ner.predict import Tagger``, then ``Tagger.load(folder).predict(views)`` (:mod:`ner.tagger`).
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

from ner.formats import FORMATS, read_input
from ner.predictions import conll_lines, with_offsets
from ner.tagger import Tagger
from ner.visual import Visuals
from pipeline.core import records
from pipeline.core.errors import UserError, run_cli
from pipeline.core.records import View

__all__ = ["Tagger"]


def write_output(
    posts: Iterable[tuple[View, list[int] | None]],
    tagger: Tagger,
    batch_size: int,
    format_name: str,
    file: IO[str],
    *,
    with_context: bool = True,
) -> None:
    """Tag posts and write them as they come, as prediction records (jsonl) or token<TAB>label lines (conll).

    Where a post came as text, its entities carry `start_char` and `end_char`, offsets into that text.
    """
    starts_of: list[list[int] | None] = []  # of the posts that the tagger has read and not yet given back

    def views() -> Iterator[View]:
        for view, starts in posts:
            starts_of.append(starts)
            yield view

    for prediction in tagger.predict(views(), batch_size, with_context=with_context):
        starts = starts_of.pop(0)
        if format_name == "conll":
            file.write(conll_lines(prediction))
            continue
        found = prediction if starts is None else with_offsets(prediction, starts)
        file.write(records.as_json(records.row(found)) + "\n")
    file.flush()


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m ner.predict", description="Find named entities in tweets.")
    parser.add_argument(
        "model", metavar="MODEL", help="a tagger's folder, such as models/tagger, or OWNER/NAME on the hub"
    )
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="input; - or nothing: stdin")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text: a post a line; conll: token lines; jsonl: posts or views [%(default)s]",
    )
    parser.add_argument(
        "--label-column", type=int, default=2, metavar="N", help="conll: which column holds labels [%(default)s]"
    )
    parser.add_argument("--output-format", choices=("jsonl", "conll"), help="[conll for conll, else jsonl]")
    parser.add_argument("--revision", help="commit, branch or tag of a tagger on the hub")
    parser.add_argument(
        "--text-only", action="store_true", help="leave out the context that posts of data/views bring along"
    )
    parser.add_argument(
        "--features",
        metavar="FOLDER",
        type=Path,
        help="features of the pictures that posts name (jsonl), as data/features, for a tagger that reads them",
    )
    parser.add_argument(
        "--objects",
        metavar="FILE",
        type=Path,
        help="objects on those pictures, as data/contexts/objects.jsonl, likewise",
    )
    parser.add_argument(
        "--word-vectors",
        metavar="FILE",
        type=Path,
        help="the word vectors that the tagger was trained with, for words that its training's posts do not have",
    )
    parser.add_argument("--batch-size", type=int, default=32, help="posts the encoder reads at once [%(default)s]")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, … [%(default)s]")
    arguments = parser.parse_intermixed_args()
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size: expected at least 1, found {arguments.batch_size}")
    tagger = Tagger.load(arguments.model, arguments.device, arguments.revision)
    if arguments.features or arguments.objects:
        tagger.show(Visuals.open(arguments.features, arguments.objects))
    if arguments.word_vectors:
        tagger.augment(arguments.word_vectors)
    output_format = arguments.output_format or ("conll" if arguments.format == "conll" else "jsonl")
    posts = tqdm(
        read_input(arguments.file, arguments.format, arguments.label_column, tagger.split), unit="post", disable=None
    )  # None: quiet if no terminal
    write_output(posts, tagger, arguments.batch_size, output_format, sys.stdout, with_context=not arguments.text_only)


if __name__ == "__main__":
    run_cli(main)
