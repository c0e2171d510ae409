"""`python -m pipeline.checkpoints convert PATH`: pickled weights become safetensors, and none of their code is run."""

import argparse
import sys
from pathlib import Path

from pipeline.core.errors import run_cli
from pipeline.core.weights import convert


def main() -> None:
    """Command line: `convert PATH`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.checkpoints", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("convert", help="write pickled weights as safetensors, running none of their code")
    command.add_argument("path", type=Path, help="a folder, or a file such as model_final.pkl")
    for written in convert(parser.parse_args().path):
        print(f"wrote {written}", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
