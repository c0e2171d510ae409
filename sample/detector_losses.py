"""Two losses that make a small RT-DETR learn fast what its own loss teaches slowly; train_detector.py uses them.

Both choose what a cell or a query should say by a rule that does not change from step to step, where RT-DETR matches
its predictions again each time. Boxes are (centre x, centre y, width, height), as shares of the picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SMALL = 0.31  # a thing no longer than this share of the picture's side is looked for on the finest feature map
OVERLAP = 0.4  # intersection over union from which a query's box is about a thing


class DenseLoss:
    """Teaches every cell of the encoder's feature maps directly, as CenterNet does its heat maps.

    RT-DETR's own loss reaches only the cells that are selected as queries, and a backbone that starts from nothing
    selects the wrong ones for thousands of steps. Here the cell at a thing's centre should say its class and box,
    cells close by are punished less for saying it too, all others should be silent.
    (Zhou et al. 2019, Objects as Points, eq. 1, with the anchors and heads of RT-DETR.)
    """

    def __init__(self, size: tuple[int, int], strides: Sequence[int]) -> None:
        """Lay out the centres of all cells, level after level, as RT-DETR flattens them.

        Args:
            size: height and width of the pictures in pixels.
            strides: pixels of a cell's side, for each level, the finest first.
        """
        centres, levels = [], []
        for level, stride in enumerate(strides):
            rows, columns = size[0] // stride, size[1] // stride
            y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns,
                                  indexing="ij")  # fmt: skip
            centres.append(torch.stack([x, y], -1).view(-1, 2))
            levels.append(torch.full((rows * columns,), level))
        self.centres = torch.cat(centres)  # (cells, 2)
        self.levels = torch.cat(levels)  # (cells,)

    def __call__(self, logits: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: (pictures, cells, classes), the encoder's class scores.
            boxes: (pictures, cells, 4), its boxes before the sigmoid.
            labels: (pictures, things), -1 where there is none.
            truth: (pictures, things, 4), the boxes.
        """
        there = labels >= 0
        level = torch.where(truth[..., 2:].amax(-1) <= SMALL, 0, 1)  # (pictures, things)
        offsets = (self.centres - truth[:, :, None, :2]) / truth[:, :, None, 2:].clamp(min=1e-3)
        distance = offsets.square().sum(-1)  # (pictures, things, cells), 1: as far from the centre as the box is long
        distance = distance.masked_fill(self.levels != level[..., None], float("inf"))
        nearest = distance.argmin(-1)  # (pictures, things)
        heat = torch.exp(-distance / (2 * 0.17**2)) * there[..., None]
        picture, thing = there.nonzero(as_tuple=True)
        cell, label = nearest[picture, thing], labels[picture, thing]

        target = torch.zeros_like(logits)
        index = labels.clamp(min=0)[..., None, None].expand(-1, -1, logits.shape[1], 1)
        for slot in range(labels.shape[1]):
            seen = target.gather(2, index[:, slot])
            target.scatter_(2, index[:, slot], torch.maximum(seen, heat[:, slot, :, None]))
        target = target.clamp(max=0.99)
        target[picture, cell, label] = 1.0
        probability = logits.sigmoid()
        positive = -nn.functional.logsigmoid(logits) * (1 - probability).square()
        negative = -nn.functional.logsigmoid(-logits) * probability.square() * (1 - target) ** 4
        scores = torch.where(target == 1, positive, negative).sum() / max(1, len(cell))
        offset = nn.functional.l1_loss(boxes[picture, cell].sigmoid(), truth[picture, thing], reduction="sum")
        return scores + 5 * offset / max(1, len(cell))


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of every pair: (pictures, n, 4) and (pictures, m, 4) give (pictures, n, m)."""
    first, second = boxes[:, :, None], others[:, None]
    low = torch.maximum(first[..., :2] - first[..., 2:] / 2, second[..., :2] - second[..., 2:] / 2)
    high = torch.minimum(first[..., :2] + first[..., 2:] / 2, second[..., :2] + second[..., 2:] / 2)
    shared = (high - low).clamp(min=0).prod(-1)
    union = first[..., 2:].prod(-1) + second[..., 2:].prod(-1) - shared
    return shared / union.clamp(min=1e-6)


def one_query_a_thing(encoder_logits: Tensor, encoder_boxes: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
    """Which query should report each thing: of those whose box is about it, the one that the encoder scores highest.

    Args:
        encoder_logits: (pictures, queries, classes), the encoder's class scores of the queries.
        encoder_boxes: (pictures, queries, 4).
        labels: (pictures, things), -1 where there is none.
        truth: (pictures, things, 4).

    Returns:
        (pictures, things), numbers of queries; meaningless where there is no thing.
    """
    iou = overlaps(truth, encoder_boxes)  # (pictures, things, queries)
    index = labels.clamp(min=0)[:, None, :].expand(-1, encoder_logits.shape[1], -1)
    score = encoder_logits.sigmoid().gather(2, index).transpose(1, 2)  # (pictures, things, queries)
    # Where no box is about the thing, the nearest has to do: its overlap is below 1, any eligible score above.
    return torch.where(iou > OVERLAP, 1 + score, iou).argmax(-1)


def settling_loss(logits: Tensor, boxes: Tensor, queries: Tensor, labels: Tensor, truth: Tensor) -> Tensor:
    """Teaches the decoder that one query reports a thing and the others, which see it as well, are silent.

    Plain cross-entropy, so that a score of 0.5 is where a tag is as likely right as wrong.

    Args:
        logits: (pictures, layers, queries, classes), the class scores after each layer.
        boxes: (pictures, layers, queries, 4), the boxes after each layer.
        queries: (pictures, things), see :func:`one_query_a_thing`.
        labels: (pictures, things), -1 where there is none.
        truth: (pictures, things, 4).
    """
    picture, thing = (labels >= 0).nonzero(as_tuple=True)
    query = queries[picture, thing]
    target = torch.zeros_like(logits)
    target[picture, :, query, labels[picture, thing]] = 1.0
    scores = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    wanted = truth[picture, thing]
    found = boxes[picture, :, query]  # (all things, layers, 4)
    offset = nn.functional.l1_loss(found, wanted[:, None].expand_as(found), reduction="sum")
    iou = overlaps(found, wanted[:, None]).squeeze(-1)
    return (scores + 5 * offset + 2 * (1 - iou).sum()) / max(1, len(query))
