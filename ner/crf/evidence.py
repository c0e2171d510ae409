"""The likelihood of something that tells of labels without giving them all: some of them, or how likely each made it.

With w_t(k) for the likelihood of what is seen at token t if its label is k, that of all that is seen is

    Σ_y p(y | x) Π_t w_t(y_t) = Z' / Z

where Z' is Z with log w added to the emissions: virtual evidence (Pearl 1988, "Probabilistic reasoning in intelligent
systems", section 2.2.2). With w of 0 and 1 alone these are labels that are known in part (Bellare and McCallum, IIWeb
2007, "Learning extractors from unlabeled text using relevant databases"; Tsuboi et al., COLING 2008, "Training
conditional random fields using incomplete annotations").
"""

from torch import Tensor

from ner.crf.chain import LinearChainCRF
from ner.crf.recursions import IMPOSSIBLE


def log_evidence(crf: LinearChainCRF, emissions: Tensor, log_weights: Tensor, mask: Tensor) -> Tensor:
    """log Σ_y p(y | x) Π_t w_t(y_t), differentiable in emissions and chain.

    Args:
        crf: the chain.
        emissions: label scores, *Shape:* (batch, length, n_labels).
        log_weights: log w, at most 0, -inf for labels that are ruled out, anything on padding,
            *Shape:* (batch, length, n_labels).
        mask: True on tokens, *Shape:* (batch, length).

    Returns:
        log-likelihoods, at most 0; about IMPOSSIBLE where the chain excludes all that is left, *Shape:* (batch,).

    Raises:
        ValueError: as :meth:`ner.crf.chain.LinearChainCRF.log_partition`, or the weights are not of the emissions'
            shape.
    """
    if log_weights.shape != emissions.shape:
        raise ValueError(f"log_weights must match emissions, {tuple(emissions.shape)}, got {tuple(log_weights.shape)}")
    weights = log_weights.clamp_min(IMPOSSIBLE).masked_fill(~mask.unsqueeze(-1), 0.0)
    return crf.log_partition(emissions + weights, mask) - crf.log_partition(emissions, mask)
