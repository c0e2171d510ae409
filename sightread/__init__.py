"""Sightread as a package: entities of tweets and their pictures.

`load(model, params)` gives a :class:`~sightread.tagging.Sightread`, whose ``tag(text, images)`` reads pictures as well;
:class:`~ner.tagger.Tagger` reads text and what it is told of pictures. Each name is imported where it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ner.scoring.f1 import score as score
    from ner.tagger import Tagger as Tagger
    from pipeline.core.records import View as View
    from sightread.tagging import Sightread as Sightread

from pipeline.core.version import __version__

__all__ = ["Sightread", "Tagger", "View", "__version__", "load", "score"]


def load(model: Any, params: Any = None, **options: Any) -> "Sightread":
    """A tagger with what reads pictures; arguments and errors as of :meth:`sightread.tagging.Sightread.load`."""
    from sightread.tagging import Sightread

    return Sightread.load(model, params, **options)


def __getattr__(name: str) -> Any:
    if name == "Sightread":
        from sightread.tagging import Sightread

        return Sightread
    if name == "Tagger":
        from ner.tagger import Tagger

        return Tagger
    if name == "View":
        from pipeline.core.records import View

        return View
    if name == "score":
        from ner.scoring.f1 import score

        return score
    raise AttributeError(f"module 'sightread' has no attribute {name!r}")
