"""`python -m pipeline.checkpoints convert PATH`: pickled weights become safetensors; `seal FOLDER`: new checksums."""

import argparse
import sys
from pathlib import Path

from pipeline.core.checksums import seal
from pipeline.core.errors import UserError, run_cli
from pipeline.core.weights import convert


def main() -> None:
    """Command line: `convert PATH`, `seal FOLDER`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.checkpoints", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert", help="write pickled weights as safetensors, running none of their code")
    command.add_argument("path", type=Path, help="a folder, or a file such as model_final.pkl")
    command = commands.add_parser("seal", help="write checksums.json of a folder whose files were changed on purpose")
    command.add_argument("path", type=Path, metavar="FOLDER", help="a tagger's or another checkpoint's")
    arguments = parser.parse_args()
    if arguments.command == "seal":
        if not arguments.path.is_dir():
            raise UserError(f"{arguments.path}: no such folder")
        written = [seal(arguments.path)]
    else:
        written = convert(arguments.path)
    for path in written:
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
