"""`python -m ner.flair_bridge`: taggers to flair (`export`) and back (`import`), in the environment `flair`."""

import argparse
import sys
from pathlib import Path

from ner.interop.flair.bridge import export_tagger, import_tagger, quiet_flair, require_trust
from pipeline.core.environments import enter
from pipeline.core.errors import run_cli


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m ner.flair_bridge",
        description="Bring taggers to flair and back, in the separate environment `flair`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("export", help="a tagger's folder to one file for flair")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="a tagger's, such as models/tagger")
    command.add_argument("file", type=Path, metavar="FILE", help="what SequenceTagger.load is to be given")
    command = commands.add_parser("import", help="a SequenceTagger's file to a tagger's folder")
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("folder", type=Path, metavar="FOLDER", help="new")
    command.add_argument(
        "--trust", action="store_true", help="load FILE although it is a pickle, which can run any code"
    )
    arguments = parser.parse_args()
    if arguments.command == "import":
        require_trust(arguments.file, arguments.trust)
    enter("flair")
    quiet_flair()
    if arguments.command == "export":
        export_tagger(arguments.folder, arguments.file)
        print(f"wrote {arguments.file}: flair.models.SequenceTagger.load({str(arguments.file)!r})", file=sys.stderr)
    else:
        import_tagger(arguments.file, arguments.folder, trust=arguments.trust)
        print(f"wrote {arguments.folder}", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
