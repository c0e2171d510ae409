"""What the pictures of posts give as tensors: features of their regions, and the surest object labels.

A post of several pictures has the regions of all of them, and the surest objects of all. Features stay on the disk,
mapped into memory, until a batch is put together. What a system makes of them is left to :mod:`ner.models`; views as
sub-tokens are :mod:`ner.views`'.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import UserError
from pipeline.core.features import Features
from pipeline.core.kinds import TEXT_KINDS
from pipeline.core.records import View

N_OBJECTS = 5
NO_OBJECT, UNKNOWN_OBJECT = 0, 1  # indices below those of labels


class VisualBatch(TypedDict):
    """What the pictures of B tweets give as tensors, for systems that do not read them as text.

    R is the largest number of regions that a tweet of the batch has: those of one picture, times its pictures.
    """

    regions: Tensor
    """features of regions of width D, 0 on padding, *Shape:* (B, R, D)."""
    cells: Tensor
    """each region's place in its own picture's grid, row by row from 0, *Shape:* (B, R)."""
    mask: Tensor
    """True on regions, which come first in their row, False behind them, *Shape:* (B, R)."""
    places: Tensor
    """positions of the M regions in the flattened tweets, *Shape:* (M,)."""
    pictured: Tensor
    """the P tweets that have regions, in order, *Shape:* (P,)."""
    present: Tensor
    """True where the tweet has a readable picture, *Shape:* (B,)."""
    objects: Tensor
    """indices of the surest object labels, the surest first, NO_OBJECT behind them, *Shape:* (B, N_OBJECTS)."""


@dataclass(frozen=True, slots=True, eq=False)
class PostVisual:
    """What the pictures of one post give.

    Attributes:
        regions: of each picture that has features, *Shape:* (regions, width) each; may lie in a mapped file.
        objects: indices of the surest labels, at most N_OBJECTS.
    """

    regions: tuple[np.ndarray, ...]
    objects: tuple[int, ...]


class Visuals:
    """Features and objects of a data set's pictures, looked up by post.

    Args:
        features: of the pictures; None: none.
        objects: labels of each picture's objects, with their scores where there are any, by the picture's name; None:
            none were looked for.
    """

    def __init__(
        self,
        features: Features | None,
        objects: Mapping[str, Sequence[tuple[float | None, str]]] | None,
    ) -> None:
        self.features, self.objects = features, objects
        self._index: dict[str, int] = {}

    @classmethod
    def open(cls, features: Path | None, objects: Path | None) -> "Visuals":
        """The files of the stages `features` and `objects`.

        Raises:
            UserError: a file is damaged, or not of those stages.
        """
        found = None
        if objects is not None:
            contexts = TEXT_KINDS["objects"].read(objects)
            found = {
                each.name: [(tag.score, tag.label) for tag in each.items] for each in contexts if each.status == "ok"
            }
        opened = None if features is None else Features.open(features)
        return cls(opened if opened is not None and opened.width is not None else None, found)

    @property
    def width(self) -> int | None:
        """Width of a region's features; None without features."""
        return None if self.features is None else self.features.width

    @property
    def n_cells(self) -> int | None:
        """Regions of one picture; None without features."""
        return None if self.features is None else self.features.regions

    def fit(self, facts: Mapping[str, Any]) -> None:
        """Number objects by the labels that a tagger knows, and see that it can read the features.

        Features of the same shape from another extractor, or from one with other settings or versions, are warned of.

        Args:
            facts: the tagger's, as of :meth:`facts`.

        Raises:
            UserError: the features are not of the kind that the tagger was trained with.
        """
        known = facts.get("n_cells"), facts.get("region_width")
        if self.width is not None and (self.n_cells, self.width) != known:
            raise UserError(
                f"features: found {self.n_cells} regions of width {self.width} per picture, but the tagger was trained "
                f"with {known[0]} of width {known[1]}; take the extractor of `features` that it was trained with"
            )
        trained_on = facts.get("fingerprint")
        if self.features is not None and trained_on not in (None, self.features.fingerprint):
            print(
                f"warning: features: {self.features.folder} is of another extractor, or of other settings, than the "
                "features that the tagger was trained with; what it finds may be wrong",
                file=sys.stderr,
            )
        self._index = {label: index for index, label in enumerate(facts["object_labels"], UNKNOWN_OBJECT + 1)}

    def facts(self, posts: Sequence[View]) -> dict[str, Any]:
        """What a tagger that reads visuals keeps of its training data (:meth:`ner.models.base.TaggerModel.facts_of`).

        Returns:
            ``{"region_width": of a region's features or None, "n_cells": regions of a picture or None,
            "fingerprint": digest of what the features' extractor depends on or None, "object_labels": those on the
            posts' pictures, sorted}``
        """
        objects = self.objects or {}
        labels = sorted({label for post in posts for image in post.images for _, label in objects.get(image, ())})
        return {
            "region_width": self.width,
            "n_cells": self.n_cells,
            "fingerprint": None if self.features is None else self.features.fingerprint,
            "object_labels": labels,
        }

    def of(self, post: View) -> PostVisual | None:
        """What a post's pictures give; None where none of them could be read."""
        regions: list[np.ndarray] = []
        tags: list[tuple[float | None, str]] = []
        readable = False
        for image in post.images:
            if self.features is not None and (found := self.features.get(image)) is not None:
                regions.append(found)
            if self.objects is not None and image in self.objects:
                readable = True
                tags += self.objects[image]
        if not regions and not readable:
            return None
        surest = sorted(tags, key=lambda tag: -1.0 if tag[0] is None else -tag[0])[:N_OBJECTS]
        return PostVisual(tuple(regions), tuple(self._index.get(label, UNKNOWN_OBJECT) for _, label in surest))

    def n_regions(self, post: View) -> list[int]:
        """How many regions each of a post's pictures has: 0 without features."""
        features = self.features
        return [features.regions or 0 if features is not None and image in features else 0 for image in post.images]


def collate_visuals(visuals: Sequence[PostVisual | None]) -> VisualBatch | None:
    """Put together what the pictures of B posts give; None where none has a picture."""
    if not any(each is not None for each in visuals):
        return None
    pictures = [each.regions if each is not None else () for each in visuals]
    first = next((regions for each in pictures for regions in each), np.zeros((0, 0), np.float16))
    most = max(sum(map(len, each)) for each in pictures)
    regions = np.zeros((len(visuals), most, first.shape[1]), first.dtype)
    cells = torch.zeros(len(visuals), most, dtype=torch.long)
    mask = torch.zeros(len(visuals), most, dtype=torch.bool)
    objects = torch.full((len(visuals), N_OBJECTS), NO_OBJECT)
    for row, each in enumerate(pictures):
        end = 0
        for picture in each:
            begin, end = end, end + len(picture)
            regions[row, begin:end] = picture
            cells[row, begin:end] = torch.arange(len(picture))
        mask[row, :end] = True
    for row, visual in enumerate(visuals):
        if visual is not None:
            objects[row, : len(visual.objects)] = torch.tensor(visual.objects, dtype=torch.long)
    return VisualBatch(
        regions=torch.from_numpy(regions),
        cells=cells,
        mask=mask,
        places=mask.flatten().nonzero().squeeze(1),
        pictured=torch.tensor([row for row, each in enumerate(pictures) if any(map(len, each))], dtype=torch.long),
        present=torch.tensor([visual is not None for visual in visuals]),
        objects=objects,
    )
