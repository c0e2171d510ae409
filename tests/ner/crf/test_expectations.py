"""What a fixed distribution over label sequences expects, against the enumeration of every sequence."""

import itertools

import pytest
import torch

from ner.crf.chain import LinearChainCRF
from ner.crf.expectations import Expectations, cross_entropy, expectations

LENGTHS, N_LABELS = (4, 1, 3), 3
MASK = torch.arange(4) < torch.tensor(LENGTHS)[:, None]


def chain(seed: int) -> tuple[LinearChainCRF, torch.Tensor]:
    torch.manual_seed(seed)
    crf = LinearChainCRF(N_LABELS).double()
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf, torch.randn(len(LENGTHS), 4, N_LABELS, dtype=torch.float64, requires_grad=True)


def log_probabilities(crf: LinearChainCRF, emissions: torch.Tensor, row: int, temperature: float) -> torch.Tensor:
    """Of every sequence."""
    scores = []
    for labels in itertools.product(range(N_LABELS), repeat=LENGTHS[row]):
        score = crf.start[labels[0]] + crf.stop[labels[-1]]
        score = score + sum(emissions[row, place, label] for place, label in enumerate(labels))
        score = score + sum(crf.transitions[pair] for pair in itertools.pairwise(labels))
        scores.append(score / temperature)
    return torch.log_softmax(torch.stack(scores), 0)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_mixtures_cross_entropy_and_its_gradient_are_those_of_the_enumeration(temperature: float) -> None:
    student, emissions = chain(0)
    teachers = [chain(1), chain(2)]
    found = [expectations(crf, scores, MASK, temperature) for crf, scores in teachers]
    mean = Expectations(
        torch.logsumexp(torch.stack([each.log_marginals for each in found]), 0) - torch.tensor(2.0).double().log(),
        torch.stack([each.transitions for each in found]).mean(0),
        torch.stack([each.entropy for each in found]).mean(0),
    )
    moved = [emissions, *student.parameters()]
    entropies = cross_entropy(mean, student, emissions, MASK, temperature)
    gradients = torch.autograd.grad(entropies.sum(), moved)
    wanted, divergences = [], []
    for row in range(len(LENGTHS)):
        log_q = log_probabilities(student, emissions, row, temperature)
        parts = torch.stack([log_probabilities(*teacher, row, temperature) for teacher in teachers]).detach()
        log_p = torch.logsumexp(parts, 0) - torch.tensor(2.0).double().log()
        wanted.append(-(log_p.exp() * log_q).sum())
        divergences.append((log_p.exp() * (log_p - log_q)).sum())
        torch.testing.assert_close(mean.entropy[row], -(parts.exp() * parts).sum(1).mean())
    torch.testing.assert_close(entropies, torch.stack(wanted))
    # That of KL(mixture ‖ student): the teachers' entropies are constant.
    for gradient, other in zip(gradients, torch.autograd.grad(torch.stack(divergences).sum(), moved), strict=True):
        torch.testing.assert_close(gradient, other)
