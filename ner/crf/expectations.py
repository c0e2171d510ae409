"""What a chain's distribution over label sequences expects, as numbers that outlive it: for a fixed teacher.

The score of a sequence under any chain is linear in its labels and in how often each transition is taken. So a
distribution's marginals and its expected transitions, (length + n_labels) · n_labels numbers, give its cross entropy
with any chain exactly; and those of a mixture are the means of its parts', expectations being linear.
"""

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from ner.crf.chain import LinearChainCRF


class Expectations(NamedTuple):
    """What B distributions over label sequences expect."""

    log_marginals: Tensor
    """log P(y_t = k), -inf where impossible and on padding, *Shape:* (B, length, n_labels)."""
    transitions: Tensor
    """how often each is taken, *Shape:* (B, n_labels, n_labels)."""
    entropy: Tensor
    """of the distribution; of a mixture, the mean of its parts', *Shape:* (B,)."""


def expectations(crf: LinearChainCRF, emissions: Tensor, mask: Tensor, temperature: float = 1.0) -> Expectations:
    """Those of a chain, every score of it divided by a temperature; without gradient.

    Args:
        crf: the chain.
        emissions: label scores, *Shape:* (B, length, n_labels).
        mask: True on tokens, *Shape:* (B, length).
        temperature: T.
    """
    with torch.no_grad():
        crf, emissions = _tempered(crf, temperature), emissions.double() / temperature
        partition, log_marginals = crf.log_partition_and_marginals(emissions, mask)
        transitions = crf.pairwise_marginals(emissions, mask).sum(1)
        found = Expectations(log_marginals, transitions, partition)
        return found._replace(entropy=partition - expected_score(crf, emissions, mask, found))


def cross_entropy(
    expected: Expectations, crf: LinearChainCRF, emissions: Tensor, mask: Tensor, temperature: float
) -> Tensor:
    """-E_p[log q], of fixed distributions p and those q of a chain, every score of it divided by a temperature.

    For a mixture p of several chains this is the mean of their cross entropies with q, and its gradient with respect to
    q is that of KL(p ‖ q), exactly.

    Args:
        expected: what p expects.
        crf: the chain of q.
        emissions: label scores that give q, *Shape:* (B, length, n_labels).
        mask: True on tokens, *Shape:* (B, length).
        temperature: T.

    Returns:
        differentiable in emissions and chain, *Shape:* (B,).
    """
    emissions = emissions.double()
    partition = crf.log_partition(emissions, mask, temperature)
    return partition - expected_score(crf, emissions, mask, expected) / temperature


def expected_score(crf: LinearChainCRF, emissions: Tensor, mask: Tensor, expected: Expectations) -> Tensor:
    """E_p[score], *Shape:* (B,); arguments as of :func:`cross_entropy`."""
    marginals = expected.log_marginals.double().exp().masked_fill(~mask.unsqueeze(-1), 0.0)
    rows, last = torch.arange(len(mask), device=mask.device), mask.sum(1) - 1
    emitted = (marginals * emissions.double().masked_fill(~mask.unsqueeze(-1), 0.0)).sum((1, 2))
    taken = (expected.transitions.double() * crf.transitions.double()).sum((1, 2))
    return emitted + taken + marginals[:, 0] @ crf.start.double() + marginals[rows, last] @ crf.stop.double()


def _tempered(crf: LinearChainCRF, temperature: float) -> LinearChainCRF:
    if temperature == 1.0:
        return crf
    tempered = copy.deepcopy(crf)
    for parameter in tempered.parameters():
        parameter.div_(temperature)
    return tempered
