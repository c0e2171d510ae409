"""`python -m pipeline.params`: `check` params.yaml and what it names; print its `reference`, docs/params.md."""

import argparse
from pathlib import Path

from ner.dry_pass import require_trainable
from pipeline.checks.check import check
from pipeline.core.errors import run_cli
from pipeline.core.kinds import KINDS
from pipeline.extractors.registry import option_models
from pipeline.settings.reference import reference


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.params", description="Work with params.yaml.")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="validate params and whatever they name")
    describing = commands.add_parser("reference", help="print docs/params.md: every key, its values and its meaning")
    for command in (checking, describing):
        command.add_argument("file", type=Path, nargs="?", default=Path("params.yaml"), help="[%(default)s]")
    arguments = parser.parse_args()
    if arguments.command == "reference":
        print(reference(arguments.file, {kind: option_models(kind) for kind in KINDS}), end="")
        return
    check(arguments.file, require_trainable)
    print(f"{arguments.file}: valid, and what it names is there")


if __name__ == "__main__":
    run_cli(main)
