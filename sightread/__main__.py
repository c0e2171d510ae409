"""`sightread tag | serve | score`: what the package does, from any folder."""

import argparse
import runpy
import sys

from pipeline.core.errors import run_cli
from pipeline.core.version import __version__

ABOUT = """commands:
  tag MODEL [FILE]                    entities of posts, with their pictures and without them
  serve MODEL                         the same over HTTP, with a page to try it on (needs sightread[serve])
  score GOLD PREDICTED [OTHER]        CoNLL-like files scored against gold; two systems tested

sightread COMMAND --help says more of each.
"""


def main() -> None:
    """The command line; see ``--help``. A command is imported when it is called: torch takes seconds."""
    parser = argparse.ArgumentParser(
        prog="sightread",
        description="Named entities in tweets with pictures.",
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"sightread {__version__}")
    parser.add_argument("command", choices=("tag", "serve", "score"), metavar="COMMAND")
    chosen = parser.parse_args(sys.argv[1:2]).command
    sys.argv = [f"sightread {chosen}", *sys.argv[2:]]
    if chosen == "score":
        runpy.run_module("ner.scoring", run_name="__main__")
    elif chosen == "serve":
        from sightread import serve

        serve.main("sightread serve")
    else:
        from sightread import tag

        tag.main("sightread tag")


def command() -> None:
    """The script that the package installs."""
    run_cli(main)


if __name__ == "__main__":
    command()
