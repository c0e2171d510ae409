"""What stages share that several processes may share out: the option that says which is whose, and where results go."""

import argparse

from pipeline.core.errors import UserError
from pipeline.core.parts import Parts
from pipeline.core.store import Store
from pipeline.engine.shards import Part
from pipeline.settings.params import Params


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add the option that lets several processes share out what a stage reads."""
    parser.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="read what process I of N (from 0) is to read, and write nothing: for job arrays, before the stage",
    )


def _part(text: str) -> Part:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise UserError(f"--part {text}: expected I/N with I from 0 to N - 1, as in --part 3/64")
    return Part(int(number), int(of))


def results_of(settings: Params, store: Store) -> Store | Parts:
    """Where results go."""
    where = settings.execution.results
    return store if where is None else Parts(where, store.folder)
