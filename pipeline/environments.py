"""`python -m pipeline.environments`: build the separate environments (`sync NAME`), or list them (`status`)."""

import argparse
from collections.abc import Sequence

from pipeline.core.environments import SOURCES, names, status, sync
from pipeline.core.errors import run_cli


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `status`, `sync NAME …`."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.environments",
        description="Separate environments for extractors whose packages conflict with the core's.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="list them")
    command = commands.add_parser("sync", help="build what is missing, incomplete or out of date")
    command.add_argument("names", nargs="+", choices=names(), metavar="NAME", help=", ".join(names()))
    command.add_argument(
        "--source",
        metavar="PATH_OR_URL",
        help="where to install a package from that is on no index: a wheel, a source folder or a URL "
        f"({', '.join(SOURCES)}; default: {', '.join(SOURCES.values())})",
    )
    command.add_argument("--ray", action="store_true", help="also what execution.engine: ray needs in them")
    given = parser.parse_args(arguments)
    if given.command == "status":
        print("\n".join(status()))
        return
    for name in given.names:
        print(f"{name}: ready, {sync(name, given.source, given.ray).folder}", flush=True)


if __name__ == "__main__":
    run_cli(main)
