"""Saved taggers as fixed teachers: what each says of a post, read once, kept in the store, and averaged.

A teacher reads a post as it was trained to: in its cross-modal view, or in the text-only one where it was trained on
nothing else; with its own tokenizer, and without dropout. What it says is kept by the digest of its folder and of what
it was shown, so that no epoch, seed or run reads it again: length · n_labels numbers of two bytes a post, and n_labels²
more for the form `sequence`. How a student learns from it is :mod:`ner.models.lessons`'.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ner.crf.expectations import expectations
from ner.decoding import batches
from ner.models.base import TaggerModel
from ner.models.config import TaggerConfig
from ner.models.folder import load_tagger, quietly, require_teacher
from ner.models.lessons import PostLesson
from ner.models.registry import tagger_class
from ner.training import folds, processes
from ner.visual import Visuals
from pipeline.core import checkpoints
from pipeline.core.errors import UserError
from pipeline.core.progress import Progress
from pipeline.core.records import View
from pipeline.core.store import Store, batched, digest
from pipeline.settings.training import TrainParams

_VERSION = 1  # of what is stored; another one where the same tagger says something else of the same post
_AT_ONCE = 512  # posts that are read before what was said of them is stored
_WINDOWS = 32  # of the encoder, in a batch


@dataclass(frozen=True, slots=True)
class _Teacher:
    folder: Path
    identity: str
    config: TaggerConfig
    fold: folds.Fold | None

    @classmethod
    def of(cls, folder: Path, params: TrainParams) -> "_Teacher":
        """That of a folder."""
        config, noted = require_teacher(folder, params), folds.read(folder)
        return cls(folder, checkpoints.digest(folder), config, None if noted is None else noted[0])

    def teaches(self, post: View) -> bool:
        """Whether it says something of a post: one of a fold says nothing of labelled posts that it was trained on."""
        return self.fold is None or post.labels is None or self.fold.has(post)

    @property
    def view(self) -> str:
        return "text_only" if self.config.views == "text_only" else "cross_modal"

    def reads(self, what: str) -> bool:
        """Whether it reads `context` or `visual`."""
        return self.view == "cross_modal" and bool(getattr(tagger_class(self.config.system), f"reads_{what}"))


class Teachers:
    """The saved taggers that `train.teacher` names.

    Args:
        params: the section `train` of params.yaml.
        store: where what they say is kept.
        visuals: what posts' pictures give as tensors, for those that read that.
        shown: the identity of `visuals`.

    Attributes:
        identities: digests of their folders.

    Raises:
        UserError: as :func:`ner.models.folder.require_teacher`.
    """

    def __init__(self, params: TrainParams, store: Store, visuals: Visuals | None = None, shown: str = "") -> None:
        self.form, self.temperature = params.teacher.form, params.teacher.temperature
        self.store, self.visuals, self.shown = store, visuals, shown
        self._teachers = [_Teacher.of(folder, params) for folder in params.teacher.folders]
        self.identities = [teacher.identity for teacher in self._teachers]

    @property
    def read_visual(self) -> bool:
        """Whether one of them reads what pictures give as tensors."""
        return any(teacher.reads("visual") for teacher in self._teachers)

    def say(self, posts: Sequence[View], labels: Sequence[str], device: torch.device) -> list[PostLesson]:
        """What the teachers say of posts: the mean of those that teach it.

        Args:
            posts: with tokens, and with their contexts uncut; those with labels are of the training split.
            labels: the student's, in the order that is wanted.
            device: what the teachers are read on.

        Raises:
            UserError: a teacher knows other labels, or all of them were trained on the same post.
        """
        for teacher in self._teachers:
            if set(known := teacher.config.tag_labels or []) != set(labels):
                raise UserError(
                    f"train.teacher.taggers: {teacher.folder} finds {', '.join(known)}; expected the labels of the "
                    f"data set, {', '.join(labels)}: train it on posts of these types (data.types renames some)"
                )
        taught = [[place for place, post in enumerate(posts) if each.teaches(post)] for each in self._teachers]
        if left := set(range(len(posts))).difference(*taught):
            raise UserError(
                f"train.teacher.taggers: every one was trained on post {posts[min(left)].id}, and on {len(left) - 1:,} "
                "more; name the taggers of all folds, or set train.teacher.posts: unlabelled"
            )
        n_read = 0
        if processes.is_first():
            for teacher, places in zip(self._teachers, taught, strict=True):
                n_read += self._read(teacher, [posts[place] for place in places], device)
        processes.let_first_go_ahead("teachers")
        said: list[list[PostLesson]] = [[] for _ in posts]
        n_bytes = 0
        for teacher, places in zip(self._teachers, taught, strict=True):
            keys = self._keys(teacher, [posts[place] for place in places])
            values = self.store.get_many(self._fingerprint(teacher), keys)
            for key, place in zip(keys, places, strict=True):
                said[place].append(self._decoded(values[key], posts[place], teacher, labels))
                n_bytes += len(values[key])
        if processes.is_first() and posts:
            n_readings = sum(map(len, taught))
            print(
                f"train: {len(posts):,} posts are taught by saved taggers ({len(taught)}): {n_read:,} of "
                f"{n_readings:,} readings are new; the store keeps {n_bytes / n_readings:,.0f} bytes of each",
                file=sys.stderr,
            )
        return [_mean(each) for each in said]

    def _fingerprint(self, teacher: _Teacher) -> str:
        how: dict[str, Any] = {"teacher": teacher.identity, "form": self.form, "version": _VERSION}
        return digest(how | ({"temperature": self.temperature} if self.form == "sequence" else {}))

    def _keys(self, teacher: _Teacher, posts: Sequence[View]) -> list[str]:
        """By post, the digest of what the teacher is shown."""
        context, visual = teacher.reads("context"), teacher.reads("visual")
        return [
            digest(
                {"tokens": post.tokens}
                | ({"context": post.context} if context else {})
                | ({"images": post.images, "visuals": self.shown} if visual else {})
            )
            for post in posts
        ]

    def _read(self, teacher: _Teacher, posts: Sequence[View], device: torch.device) -> int:
        """Read and store what is not stored yet; return of how many posts."""
        fingerprint = self._fingerprint(teacher)
        by_key = dict(zip(self._keys(teacher, posts), posts, strict=True))
        known = self.store.known(fingerprint, list(by_key))
        missing = [(key, post) for key, post in by_key.items() if key not in known]
        if not missing:
            return 0
        with quietly():
            model, encoder = load_tagger(teacher.folder)
        if teacher.reads("visual") and self.visuals is not None:
            encoder.show(self.visuals, model.config.facts or {})
        model.to(device)
        with Progress(f"teacher {teacher.folder.name}", "post", len(missing)) as bar:
            for some in batched(missing, _AT_ONCE):
                encoded = encoder.encode([post for _, post in some], with_context=teacher.view == "cross_modal")
                values: dict[str, bytes] = {}
                for places, view, visual in batches(encoded, encoder.pad_id, _WINDOWS, device):
                    with torch.inference_mode():
                        said = self._said(model, model.emissions(view, visual), view["mask"])
                    for row, place in enumerate(places):
                        length = len(encoded[place])
                        parts = [said[0][row, :length], *(each[row] for each in said[1:])]
                        values[some[place][0]] = b"".join(part.astype(np.float16).tobytes() for part in parts)
                self.store.put_many(fingerprint, values)
                bar.update(len(some))
        return len(missing)

    def _said(self, model: TaggerModel, emissions: torch.Tensor, mask: torch.Tensor) -> list[np.ndarray]:
        """Log-probabilities (B, L, n_labels), and for `sequence` transitions and entropies."""
        if self.form == "sequence":
            return [each.cpu().numpy() for each in expectations(model.crf, emissions, mask, self.temperature)]
        if self.form == "marginal":
            return [model.crf.log_partition_and_marginals(emissions, mask)[1].cpu().numpy()]
        return [torch.log_softmax(emissions.float(), -1).cpu().numpy()]

    def _decoded(self, value: bytes, post: View, teacher: _Teacher, labels: Sequence[str]) -> PostLesson:
        """What :meth:`_read` has stored, in the order of the student's labels."""
        known = teacher.config.tag_labels or []
        order = [known.index(label) for label in labels]
        n_labels, numbers = len(known), np.frombuffer(value, np.float16)
        said, rest = np.split(numbers, [len(post.tokens) * n_labels])
        log_probabilities = said.reshape(len(post.tokens), n_labels)[:, order]
        if self.form != "sequence":
            return PostLesson(log_probabilities)
        transitions = rest[: n_labels**2].reshape(n_labels, n_labels)[np.ix_(order, order)]
        return PostLesson(log_probabilities, transitions, float(rest[n_labels**2]))


def _mean(said: Sequence[PostLesson]) -> PostLesson:
    """Of what several teachers say of a post: of probabilities and expectations."""
    if len(said) == 1:
        return said[0]
    summed = reduce(np.logaddexp, [each.log_probabilities.astype(np.float32) for each in said])
    transitions = [each.transitions for each in said if each.transitions is not None]
    return PostLesson(
        (summed - np.log(len(said))).astype(np.float16),
        np.asarray(np.mean(transitions, 0, np.float32), np.float16) if transitions else None,
        sum(each.entropy for each in said) / len(said),
    )
