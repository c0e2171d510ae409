"""Posts as examples of a training: those that teach labels, those that teach a relation, those that are only aligned.

What an example is, and in which order examples are read, is :mod:`ner.training.sampler`'s.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ner.bioes import to_scheme
from ner.models.base import TaggerModel
from ner.models.context_target import PostTarget
from ner.models.lessons import PostLesson
from ner.training import processes
from ner.training.context_targets import Describe, targets
from ner.training.pieces import in_pieces, warn_of_pieces
from ner.training.sampler import Example
from ner.views import EncodedView, ViewEncoder, ViewName
from pipeline.core import marks
from pipeline.core.errors import UserError
from pipeline.core.labels import entities
from pipeline.core.marks import Writing
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

    Returns:
        the labelled ones; the others, with mentions and hashtags written as the labelled ones have them.

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
    if others and not params.unlabelled_views:
        if processes.is_first():
            print(
                f"train: {len(others):,} posts without labels are left out: nothing is learned from them without a "
                "train.unlabelled_ratio above 0, and something to learn: from a teacher, which is another tagger "
                "(train.teacher), or with train.views: both and an alignment the tagger itself, or of their contexts "
                "(train.context_target)",
                file=sys.stderr,
            )
        return labelled, []
    return labelled, _written_alike(labelled, others)


def _written_alike(labelled: Sequence[View], others: Sequence[View]) -> list[View]:
    writing = Writing(marks.count(post.tokens for post in labelled))
    adapted = [(post, writing.adapt(post.tokens)) for post in others]
    n_changed = sum(found is not None for _, found in adapted)
    if n_changed and processes.is_first():
        print(
            f"train: {n_changed:,} of {len(others):,} posts without labels write mentions or hashtags otherwise than "
            "the labelled ones (@ManUtd, @ ManUtd), and are read as those write them",
            file=sys.stderr,
        )
    return [post if found is None else replace(post, tokens=found[0]) for post, found in adapted]


def make(
    params: TrainParams,
    model: TaggerModel,
    views: ViewEncoder,
    labelled: Sequence[View],
    unlabelled: Sequence[View] = (),
    relation: Sequence[RelationPost] = (),
    say: Callable[[Sequence[View]], Sequence[PostLesson]] | None = None,
    describe: Describe | None = None,
) -> Examples:
    """Examples of posts; those that are too long make several.

    Args:
        params: the section `train` of params.yaml.
        model: the tagger that is to be trained.
        views: the encoder of its views.
        labelled, unlabelled: as of :func:`parted`.
        relation: posts whose pictures are known to add to their meaning or not to.
        say: what fixed teachers say of posts, where there are some.
        describe: gives contexts their vectors, where those are learned.

    Raises:
        UserError: the tagger's relation or what it learns of contexts has nothing to learn from, or an entity is too
            long.
    """
    pieces = in_pieces([*labelled, *unlabelled], views)
    if processes.is_first():
        warn_of_pieces(pieces)
    parts = list(itertools.chain.from_iterable(pieces))
    with_labels = [part for part in parts if part.labels is not None]
    without = [part for part in parts if part.labels is None]
    lessons: list[PostLesson | None] = [None] * len(parts)
    if say is not None:
        n_not_taught = 0 if params.teacher.posts == "all" else len(with_labels)
        lessons[n_not_taught:] = say([*with_labels, *without][n_not_taught:])
    index = {label: position for position, label in enumerate(model.labels)}
    aims: Sequence[PostTarget | None] = [None] * len(parts)
    if params.learns_context:
        aims = targets([*with_labels, *without], params, index, describe)

    def examples(posts: Sequence[View], names: Sequence[ViewName], begin: int) -> list[Example]:
        encoded = encode_views(names, views, posts)
        return [
            Example(
                {name: every[place] for name, every in encoded.items()},
                None if post.labels is None else [index[label] for label in to_scheme(post.labels, params.scheme)],
                lesson=lessons[begin + place],
                target=aims[begin + place],
            )
            for place, post in enumerate(posts)
        ]

    return Examples(
        _of_relation(model, views, relation),
        examples(with_labels, params.trained_views, 0),
        examples(without, params.unlabelled_views, len(with_labels)),
        pieces,
    )


def encode_views(
    names: Sequence[ViewName], views: ViewEncoder, posts: Sequence[View]
) -> dict[ViewName, list[EncodedView]]:
    """The posts' encoded views of these names."""
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
