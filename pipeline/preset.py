"""`python -m pipeline.preset NAME`: settings that go together, as of a published set-up, merged into params.yaml."""

import argparse
import json
from pathlib import Path

from pipeline.core.errors import run_cli
from pipeline.settings.presets import apply, names, summary


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.preset", description="Merge a preset into params.yaml; without NAME, list them."
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a preset")
    parser.add_argument("--file", type=Path, default=Path("params.yaml"), help="what to change [%(default)s]")
    arguments = parser.parse_args()
    if arguments.name is None:
        known = names()
        width = max(map(len, known), default=0)
        for name in known:
            print(f"{name:<{width}}  {summary(name)}")
        return
    changes = apply(arguments.name, arguments.file)
    for key, old, new in changes:
        before, after = (json.dumps(value, ensure_ascii=False) for value in (old, new))
        print(f"{key}: {before} → {after}")
    print(f"{arguments.file}: {len(changes) or 'no'} settings changed")


if __name__ == "__main__":
    run_cli(main)
