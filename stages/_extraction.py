"""What the stages `objects`, `captions` and `ocr` share: pictures → context rows, from the manifest or a folder."""

import argparse
from pathlib import Path

from pipeline.params import Kind
from stages import paths


def main(kind: Kind) -> None:
    """Run the stage, or with ``--images`` and ``--output`` read a folder of pictures without DVC."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{kind}", description=f"Read {kind} off pictures.")
    parser.add_argument("--images", type=Path, metavar="DIR", help="read this folder, not the pipeline's manifest")
    parser.add_argument("--output", type=Path, metavar="FILE.jsonl", help="where to write the rows of --images")
    parser.add_argument("--params", type=Path, default=paths.PARAMS, metavar="FILE", help="default: %(default)s")
