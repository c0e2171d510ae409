"""Posts as examples of a training: those that teach labels, those that teach a relation, those that are only aligned.

What an example is, and in which order examples are read, is :mod:`ner.training.sampler`'s.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ner.bioes import to_scheme
from ner.models.base import TaggerModel
from ner.training import processes
from ner.training.pieces import in_pieces, warn_of_pieces
from ner.training.sampler import Example
from ner.views import EncodedView, ViewEncoder, ViewName
from pipeline.core.errors import UserError
from pipeline.core.labels import entities
from pipeline.core.records import RelationPost, View
from pipeline.settings.training import TrainParams

_REMEDY = "to tag posts without labels, stop at `dvc repro views` and see python -m ner.predict --help"


@dataclass(frozen=True, slots=True)
class Examples:
    """All that a training reads.

    Attributes:
        relation: of the relation of text and picture.
        labelled: of labels.
        unlabelled: of the alignment alone.
        pieces: each post with labels or without, as it is trained (:mod:`ner.training.pieces`).
    """

    relation: list[Example]
    labelled: list[Example]
    unlabelled: list[Example]
    pieces: list[list[View]]


def parted(params: TrainParams, train: Sequence[View], unlabelled: Sequence[View]) -> tuple[list[View], list[View]]:
    """The posts that a training learns labels from, and those that it learns the alignment alone from.

    Args:
        params: the section `train` of params.yaml.
        train: the training split; a post without labels counts as one of `unlabelled`.
        unlabelled: posts that nobody has labelled.

    Raises:
        UserError: there is no labelled post, or one without tokens.
    """
    labelled = [post for post in train if post.labels is not None]
    if train and not labelled:
        raise UserError(
            f"train: none of the {len(train):,} posts of the train split has labels; expected one at least; {_REMEDY}"
        )
    check_labelled("train", labelled)
    others = [post for post in (*train, *unlabelled) if post.labels is None and post.tokens]
    if others and not params.learns_unlabelled:
        if processes.is_first():
            print(
                f"train: {len(others):,} posts without labels are left out: nothing is learned from them without "
                "train.views: both, an alignment and a train.unlabelled_ratio above 0",
                file=sys.stderr,
            )
        return labelled, []
    return labelled, others


def make(
    params: TrainParams,
    model: TaggerModel,
    views: ViewEncoder,
    labelled: Sequence[View],
    unlabelled: Sequence[View] = (),
    relation: Sequence[RelationPost] = (),
) -> Examples:
    """Examples of posts; those that are too long make several.

    Args:
        params: the section `train` of params.yaml.
        model: the tagger that is to be trained.
        views: the encoder of its views.
        labelled, unlabelled: as of :func:`parted`.
        relation: posts whose pictures are known to add to their meaning or not to.

    Raises:
        UserError: the tagger's relation has nothing to learn from, or an entity is too long.
    """
    pieces = in_pieces([*labelled, *unlabelled], views)
    if processes.is_first():
        warn_of_pieces(pieces)
    parts = list(itertools.chain.from_iterable(pieces))
    encoded = encode_views(params, views, parts)
    index = {label: position for position, label in enumerate(model.labels)}
    examples = [
        Example(
            {name: every[place] for name, every in encoded.items()},
            None if part.labels is None else [index[label] for label in to_scheme(part.labels, params.scheme)],
        )
        for place, part in enumerate(parts)
    ]
    return Examples(
        _of_relation(model, views, relation),
        [example for example in examples if example.labels is not None],
        [example for example in examples if example.labels is None],
        pieces,
    )


def encode_views(params: TrainParams, views: ViewEncoder, posts: Sequence[View]) -> dict[ViewName, list[EncodedView]]:
    """The posts' encoded views, of those that are trained."""
    names: list[ViewName] = ["text_only", "cross_modal"] if params.views == "both" else [params.views]
    return {name: views.encode(posts, with_context=name == "cross_modal") for name in names}


def _of_relation(model: TaggerModel, views: ViewEncoder, posts: Sequence[RelationPost]) -> list[Example]:
    """Examples of the relation, where the tagger learns it; posts without features are left out.

    Raises:
        UserError: the tagger's relation has nothing to learn from.
    """
    if not model.learns_relation or model.config.views == "text_only":
        return []
    shown = [View(post.id, post.tokens, None, "", post.images) for post in posts]
    examples = [
        Example({"cross_modal": view}, None, post.relation)
        for view, post in zip(views.encode(shown, with_context=True), posts, strict=True)
        if view.visual is not None and view.visual.regions and post.tokens
    ]
    if processes.is_first() and len(examples) < len(posts):
        print(
            f"train: {len(posts) - len(examples)} of the {len(posts)} posts of data.relation have no text or no "
            "picture with features, and are left out",
            file=sys.stderr,
        )
    model.check_relation(len(examples))
    return examples


def check_labelled(split: str, views: Sequence[View]) -> None:
    """Check that a split can be learned from.

    Raises:
        UserError: it has no posts, or a post without tokens or labels.
    """
    if not views:
        raise UserError(f"train: the {split} split has no posts; expected at least one (data.{split}); {_REMEDY}")
    for view in views:
        if view.labels is None or not view.tokens:
            raise UserError(
                f"train: post {view.id} of the {split} split has no {'labels' if view.tokens else 'tokens'}; expected "
                f"labelled posts; {_REMEDY}"
            )


def warn_without_entities(dev: Sequence[View]) -> None:
    """Say so where dev cannot tell one epoch from another."""
    if processes.is_first() and not any(entities(view.labels or [], "strict") for view in dev):
        print(
            f"warning: train: none of the {len(dev)} posts of the dev split has an entity, so its F1 is 0 in every "
            "epoch: the last epoch is kept, and train.patience stops nothing",
            file=sys.stderr,
        )
