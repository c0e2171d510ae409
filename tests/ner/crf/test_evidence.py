"""The likelihood of what tells of labels in part, against the enumeration of every sequence."""

import itertools

import pytest
import torch

from ner.bioes import allowed_transitions
from ner.crf.chain import LinearChainCRF
from ner.crf.evidence import log_evidence

LABELS = ["O", "B-X", "I-X", "E-X", "S-X"]
LENGTHS = (4, 1, 3)
MASK = torch.arange(4) < torch.tensor(LENGTHS)[:, None]


def chain() -> tuple[LinearChainCRF, torch.Tensor]:
    torch.manual_seed(0)
    crf = LinearChainCRF(len(LABELS), allowed_transitions(LABELS)).double()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf, torch.randn(len(LENGTHS), 4, len(LABELS), dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("ruled_out", [False, True])
def test_it_and_its_gradient_are_those_of_the_enumeration(ruled_out: bool) -> None:
    crf, emissions = chain()
    log_weights = torch.rand(emissions.shape, dtype=torch.float64).log()
    if ruled_out:
        log_weights[torch.rand(emissions.shape) < 0.5] = -torch.inf
        log_weights[..., 0] = 0.0
    moved = [emissions, *crf.parameters()]
    found = log_evidence(crf, emissions, log_weights, MASK)
    wanted = []
    for row, length in enumerate(LENGTHS):
        paths = torch.tensor(list(itertools.product(range(len(LABELS)), repeat=length)))
        padded = torch.nn.functional.pad(paths, (0, 4 - length))
        mask = MASK[row].expand(len(paths), -1)
        likelihoods = crf.log_likelihood(emissions[row].expand(len(paths), -1, -1), padded, mask)
        weights = log_weights[row, :length].gather(1, paths.T).sum(0)
        wanted.append(torch.logsumexp(likelihoods + weights, 0))
    torch.testing.assert_close(found, torch.stack(wanted))
    gradients = torch.autograd.grad(found.sum(), moved)
    for gradient, other in zip(gradients, torch.autograd.grad(torch.stack(wanted).sum(), moved), strict=True):
        torch.testing.assert_close(gradient, other)


def test_all_labels_known_is_their_likelihood_and_none_known_says_nothing() -> None:
    crf, emissions = chain()
    labels = torch.tensor([[0, 1, 3, 0], [4, 0, 0, 0], [1, 2, 3, 0]])
    known = torch.full(emissions.shape, -torch.inf).scatter(2, labels.unsqueeze(-1), 0.0)
    torch.testing.assert_close(log_evidence(crf, emissions, known, MASK), crf.log_likelihood(emissions, labels, MASK))
    nothing = log_evidence(crf, emissions, torch.zeros(emissions.shape), MASK)
    torch.testing.assert_close(nothing, torch.zeros(3, dtype=torch.float64))


def test_weights_of_another_shape_are_refused() -> None:
    crf, emissions = chain()
    with pytest.raises(ValueError, match=r"log_weights must match emissions, \(3, 4, 5\), got \(3, 4, 2\)"):
        log_evidence(crf, emissions, torch.zeros(3, 4, 2), MASK)
