"""`python -m ner.onnx export TAGGER FOLDER`: a tagger becomes an ONNX graph that ner.predict reads."""

import argparse
import sys

from ner.interop.onnx import export
from ner.models.folder import quietly
from pipeline.core.errors import run_cli


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m ner.onnx", description="Run a tagger on onnxruntime.")
    commands = parser.add_subparsers(dest="command", required=True)
    exporting = commands.add_parser("export", help="write a tagger as an ONNX graph that ner.predict reads")
    exporting.add_argument("tagger", metavar="TAGGER", help="a tagger's folder, such as models/tagger")
    exporting.add_argument("folder", metavar="FOLDER", help="a folder to be made, such as models/tagger-onnx")
    exporting.add_argument(
        "--pictures",
        action="store_true",
        help="a graph that reads features and objects of pictures, for a tagger of such a system; else text alone",
    )
    arguments = parser.parse_args()
    with quietly():
        written = export(arguments.tagger, arguments.folder, with_pictures=arguments.pictures)
    n_bytes = sum(path.stat().st_size for path in written.iterdir())
    print(f"{written}: {n_bytes / 1e6:,.1f} MB; tag with: python -m ner.predict {written}", file=sys.stderr)


if __name__ == "__main__":
    run_cli(main)
