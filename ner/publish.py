"""`python -m ner.publish TAGGER OWNER/NAME`: a tagger goes to the hub with a card, or with `--dry-run` to a folder."""

import argparse
import sys
import tempfile
from pathlib import Path

from ner.interop.hub import check_name, gather, read_evaluation, send
from ner.interop.model_card import render
from ner.training import facts
from pipeline.core.errors import run_cli


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m ner.publish", description="Send a tagger to the hub.")
    parser.add_argument("tagger", metavar="TAGGER", type=Path, help="a tagger's folder, such as models/tagger")
    parser.add_argument("repository", metavar="OWNER/NAME", help="the repository on the hub; made where there is none")
    parser.add_argument(
        "--dry-run", type=Path, metavar="FOLDER", help="write there what would be sent, and send nothing"
    )
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument(
        "--license", metavar="ID", help="of the weights, as the hub calls it, such as apache-2.0 [none stated]"
    )
    parser.add_argument("--data", metavar="NAME", help="what to call the data set [the name of its folder]")
    parser.add_argument(
        "--metrics",
        type=Path,
        default=Path("metrics"),
        metavar="FOLDER",
        help="where the evaluate stage has put the tagger's scores [%(default)s]",
    )
    parser.add_argument("--no-scores", action="store_true", help="publish without them")
    arguments = parser.parse_args()
    check_name(arguments.repository)
    evaluation, evaluated = (
        (None, None) if arguments.no_scores else read_evaluation(arguments.tagger, arguments.metrics)
    )
    card = render(
        facts.read(arguments.tagger),
        evaluation,
        evaluated=evaluated,
        repository=arguments.repository,
        data=arguments.data,
        licence=arguments.license,
    )
    if arguments.license is None:
        print("the card states no licence; --license ID does", file=sys.stderr)
    if arguments.dry_run is not None:
        left_out = gather(arguments.tagger, arguments.dry_run, card)
        outcome = f"{arguments.dry_run}: what would be sent to {arguments.repository}; nothing was"
        folder = arguments.dry_run
        print(*(f"{file.stat().st_size:>13,}  {file.name}" for file in sorted(folder.iterdir())), sep="\n")
    else:
        with tempfile.TemporaryDirectory(prefix="sightread-") as temporary:
            left_out = gather(arguments.tagger, Path(temporary), card)
            outcome = f"published: {send(Path(temporary), arguments.repository, private=arguments.private)}"
    for name in left_out:
        print(f"left out, being no part of a tagger: {name}", file=sys.stderr)
    print(outcome)


if __name__ == "__main__":
    run_cli(main)
