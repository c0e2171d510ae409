"""Whether each node of a cluster sees the pictures that this machine sees."""

from collections.abc import Callable

from pipeline.core.errors import UserError
from pipeline.images.decoding import PictureError


def require_unreadable(what: str, name: str, why: str, node: str, read: Callable[[], object]) -> None:
    """See that this machine cannot read either what a worker could not, as where a node lacks the pictures.

    Args:
        what: is read.
        name: a picture's, or that of a post with pictures.
        why: the worker could not.
        node: where it ran.
        read: reads it here; raises PictureError where that fails.

    Raises:
        UserError: this machine can.
    """
    try:
        read()
    except PictureError:
        return
    raise UserError(
        f"{what}: node {node} cannot read {name} ({why}), and this machine can; see that each node has the pictures "
        "(data.images) under the same path, and may read them. What was found before is kept"
    )
