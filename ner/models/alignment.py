"""The cross-view losses: how far the text-only view's beliefs lie from the cross-modal view's.

Each takes both views' emissions of the same tweets over one CRF and returns a loss per tweet; weights, the mean over
tweets and the encoder are left to :mod:`ner.models.base`. ITA's published loss is `marginal`; a new form is a
function here and a name in FORMS (and in `train.alignment` of pipeline/settings/params.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ner.crf.chain import LinearChainCRF


@dataclass(frozen=True, slots=True)
class TwoViews:
    """What a form may use of a batch; teacher: the cross-modal view, student: the text-only view.

    With a detached teacher, `teacher_emissions` and `teacher_log_marginals` carry no gradient.
    """

    teacher_emissions: Tensor
    """*Shape:* (batch, length, n_labels)."""
    student_emissions: Tensor
    """*Shape:* (batch, length, n_labels)."""
    teacher_log_marginals: Tensor
    """-inf where impossible and on padding, *Shape:* (batch, length, n_labels)."""
    student_log_marginals: Tensor
    """likewise, *Shape:* (batch, length, n_labels)."""
    mask: Tensor
    """True on tokens, *Shape:* (batch, length)."""


def marginal(crf: LinearChainCRF, views: TwoViews, temperature: float) -> Tensor:
    """Σ_tokens KL(teacher ‖ student) of the views' marginals, flattened by T: p(y) ∝ exp(log-marginal(y) / T).

    ITA's cross-view alignment (Wang et al., NAACL 2022, section 3.3), where the loss is scaled by T².

    Args:
        crf: the chain of both views.
        views: what they give.
        temperature: T.

    Returns:
        divergences, *Shape:* (batch,).
    """
    # A label impossible in one view is so in the other (same tweet, same chain): it has no part in the softened ones.
    possible = views.teacher_log_marginals > -torch.inf
    return softened_kl(views.teacher_log_marginals, views.student_log_marginals, possible, temperature)


def emission(crf: LinearChainCRF, views: TwoViews, temperature: float) -> Tensor:
    """Σ_tokens KL(teacher ‖ student) of the softmax of the views' emissions over T: distillation without transitions.

    Args:
        crf: the chain of both views.
        views: what they give.
        temperature: T.

    Returns:
        divergences, *Shape:* (batch,).
    """
    return softened_kl(views.teacher_emissions, views.student_emissions, views.mask.unsqueeze(-1), temperature)


def sequence(crf: LinearChainCRF, views: TwoViews, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of the views' distributions over label sequences, every score of the chain divided by T.

    (Wang et al., ACL 2020, "Structure-level knowledge distillation for multilingual sequence labeling", equation 3,
    exactly instead of over the k best.) T = 1 is the chain itself.

    Args:
        crf: the chain of both views.
        views: what they give.
        temperature: T.

    Returns:
        divergences, *Shape:* (batch,).
    """
    return crf.kl(views.teacher_emissions, views.student_emissions, views.mask, temperature)


FORMS: dict[str, Callable[[LinearChainCRF, TwoViews, float], Tensor]] = {
    "marginal": marginal,
    "emission": emission,
    "sequence": sequence,
}


def softened_kl(
    teacher: Tensor, student: Tensor, possible: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Σ_tokens w · KL(softmax(teacher / T) ‖ softmax(student / T)).

    Args:
        teacher: scores, *Shape:* (batch, length, n_labels).
        student: scores, *Shape:* (batch, length, n_labels).
        possible: False where a label has no part in either, *Shape:* (batch, length, n_labels or 1).
        temperature: T.
        weights: w, *Shape:* (batch, length); None: 1 each.

    Returns:
        divergences, *Shape:* (batch,).
    """
    # Log-marginals come from the CRF with the batch last in memory; going through them in that order saves copies.
    teacher, student, possible = (
        scores.movedim(0, -1) for scores in (teacher, student, possible)
    )  # (length, n_labels, batch)
    # What is impossible gets probability 0 on both sides; a row with nothing possible, on padding, is uniform on both.
    log_teacher, log_student = (
        torch.log_softmax(
            scores.to(torch.promote_types(scores.dtype, torch.float32)).masked_fill(~possible, -1e30).div_(temperature),
            dim=1,
        )
        for scores in (teacher, student)
    )
    parts = torch.nn.functional.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    return parts.sum((0, 1)) if weights is None else (parts.sum(1) * weights.T).sum(0)
