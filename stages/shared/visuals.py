"""What the stages `features` and `objects` have left of the pictures, for taggers that read it as tensors."""

from ner.visual import Visuals
from pipeline.core.features import FACTS, INDEX
from pipeline.core.hashes import file_digest
from pipeline.core.store import digest
from stages.shared import paths

OBJECTS = paths.CONTEXTS / "objects.jsonl"


def opened() -> Visuals:
    """The pipeline's features and objects.

    Raises:
        UserError: a file of theirs is missing or damaged.
    """
    return Visuals.open(paths.FEATURES, OBJECTS)


def identity() -> str:
    """Digest of what they are: of the pictures, of what read them, and of the objects found."""
    return digest({file.name: file_digest(file) for file in (paths.FEATURES / FACTS, paths.FEATURES / INDEX, OBJECTS)})
