"""Stage `check`: params.yaml and what it names → data/checked/{stage}.json, or one message with every mistake.

Each file has the identity of what its stage loads (checkpoints, a separate environment). A stage depends on its own
file: it runs again when a checkpoint that it names changes, and not when another one comes to lie beside it.
"""

from ner.dry_pass import require_trainable
from pipeline.checks.check import check
from pipeline.checks.identities import identities
from pipeline.core.errors import run_cli
from pipeline.core.files import write_json
from pipeline.core.locks import stage_lock
from stages.shared import paths


def main() -> None:
    """Run the stage."""
    with stage_lock("check"):
        settings = check(paths.PARAMS, require_trainable)
        for stage, identity in identities(settings).items():
            write_json(paths.CHECKED / f"{stage}.json", identity)
    print(f"{paths.PARAMS}: valid, and what it names is there")


if __name__ == "__main__":
    run_cli(main, __doc__)
