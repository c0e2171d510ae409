"""The systems by name: what `train.model` and a saved tagger's config may say.

A new system is a subclass of :class:`ner.models.base.TaggerModel` and an entry here, beside its options in
pipeline/settings/params.py.
"""

from ner.models.base import TaggerModel
from ner.models.iie4mner import Iie4mnerTagger
from ner.models.ita import ItaTagger
from ner.models.rpbert import RpbertTagger
from pipeline.core.errors import UserError

SYSTEMS: dict[str, type[TaggerModel]] = {"ita": ItaTagger, "rpbert": RpbertTagger, "iie4mner": Iie4mnerTagger}


def tagger_class(system: str) -> type[TaggerModel]:
    """The class of a system.

    Raises:
        UserError: there is no such system.
    """
    if system not in SYSTEMS:
        raise UserError(f"tagger of system {system!r}: unknown; this version has {', '.join(SYSTEMS)}")
    return SYSTEMS[system]
