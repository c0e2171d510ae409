"""A CRF refuses what does not belong together, in pytorch-crf's words where that has them."""

import re
from collections.abc import Callable

import pytest
import torch
import torchcrf
from torch import Tensor

from ner.crf.chain import LinearChainCRF

CRF = LinearChainCRF(5)
EMISSIONS = torch.zeros(2, 3, 5)
LABELS = torch.tensor([[0, 4, 1], [2, 0, -100]])  # anything behind a sequence's end
MASK = torch.tensor([[True, True, True], [True, True, False]])
Ask = Callable[[Tensor, Tensor, Tensor], object]

ASKS: dict[str, Ask] = {
    "log_partition": lambda emissions, labels, mask: CRF.log_partition(emissions, mask),
    "log_partition_and_marginals": lambda emissions, labels, mask: CRF.log_partition_and_marginals(emissions, mask),
    "marginals": lambda emissions, labels, mask: CRF.marginals(emissions, mask),
    "pairwise_marginals": lambda emissions, labels, mask: CRF.pairwise_marginals(emissions, mask),
    "viterbi": lambda emissions, labels, mask: CRF.viterbi(emissions, mask),
    "kl": lambda emissions, labels, mask: CRF.kl(emissions, emissions, mask),
    "two_view_marginals": lambda emissions, labels, mask: CRF.two_view_marginals(
        emissions, emissions, mask, detach_teacher=True
    ),
}
ASKS_OF_LABELS: dict[str, Ask] = {
    "score": lambda emissions, labels, mask: CRF.score(emissions, labels, mask),
    "log_likelihood": lambda emissions, labels, mask: CRF.log_likelihood(emissions, labels, mask),
    "two_views": lambda emissions, labels, mask: CRF.two_views(emissions, emissions, labels, mask, detach_teacher=True),
    "span_log_probability": lambda emissions, labels, mask: CRF.span_log_probability(
        emissions, mask, labels, torch.tensor([[0, 0, 2]])
    ),
}
THEIRS = {
    "emissions must have dimension of 3, got 2": (EMISSIONS[0], LABELS, MASK),
    "expected last dimension of emissions is 5, got 4": (EMISSIONS[..., :4], LABELS, MASK),
    "the first two dimensions of emissions and mask must match, got (2, 3) and (2, 2)": (
        EMISSIONS,
        LABELS,
        MASK[:, :2],
    ),
    "mask of the first timestep must all be on": (EMISSIONS, LABELS, MASK & torch.tensor([[True], [False]])),
}
TAGS_OF_OTHER_SHAPE = "the first two dimensions of emissions and tags must match, got (2, 3) and (1, 3)"
OURS = {
    "emissions must have at least one position, got 0": (EMISSIONS[:, :0], LABELS[:, :0], MASK[:, :0]),
    "mask must be of torch.bool, got torch.int64": (EMISSIONS, LABELS, MASK.long()),
    "mask must be on without a gap": (EMISSIONS, LABELS, torch.tensor([[True, False, True], [True, True, True]])),
    "emissions and mask must be on one device, got cpu and meta": (EMISSIONS, LABELS, MASK.to("meta")),
}


@pytest.mark.parametrize("ask", [*ASKS, *ASKS_OF_LABELS])
@pytest.mark.parametrize("message", [*THEIRS, *OURS])
def test_emissions_and_masks_that_do_not_fit_are_refused(ask: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        (ASKS | ASKS_OF_LABELS)[ask](*(THEIRS | OURS)[message])


@pytest.mark.parametrize("ask", ASKS_OF_LABELS)
@pytest.mark.parametrize(
    ("message", "labels"),
    [
        (TAGS_OF_OTHER_SHAPE, LABELS[:1]),
        ("tags must be of torch.int64, got torch.int32", LABELS.int()),
        ("emissions and tags must be on one device, got cpu and meta", LABELS.to("meta")),
        ("expected tags from 0 to 4 where the mask is on", LABELS + 1),
        ("expected tags from 0 to 4 where the mask is on", LABELS - 1),
    ],
)
def test_labels_that_do_not_fit_are_refused(ask: str, message: str, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ASKS_OF_LABELS[ask](EMISSIONS, labels, MASK)


def test_views_of_different_shapes_are_refused() -> None:
    message = re.escape("emissions of both views must match, got (2, 3, 5) and (1, 3, 5)")
    for ask in (
        lambda: CRF.two_views(EMISSIONS, EMISSIONS[:1], LABELS, MASK, detach_teacher=True),
        lambda: CRF.two_view_marginals(EMISSIONS, EMISSIONS[:1], MASK, detach_teacher=True),
        lambda: CRF.kl(EMISSIONS, EMISSIONS[:1], MASK),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_what_fits_is_computed_whatever_stands_behind_a_sequences_end() -> None:
    assert CRF.log_likelihood(EMISSIONS, LABELS, MASK).isfinite().all()


@pytest.mark.parametrize("message", [*THEIRS, TAGS_OF_OTHER_SHAPE])
def test_the_words_are_pytorch_crfs(message: str) -> None:
    arguments = THEIRS.get(message, (EMISSIONS, LABELS[:1], MASK))
    with pytest.raises(ValueError, match=re.escape(message)):
        torchcrf.CRF(5, batch_first=True)(*arguments)
