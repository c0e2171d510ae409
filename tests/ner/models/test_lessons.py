"""What fixed teachers say, as a loss: the forms against those of the moving teacher, and where tokens count."""

import math

import pytest
import torch

from ner.crf.chain import LinearChainCRF
from ner.crf.expectations import expectations
from ner.models.alignment import FORMS, TwoViews
from ner.models.lessons import Lesson, PostLesson, Teaching, collate_lessons

MASK = torch.tensor([[True, True, True], [True, False, False]])
T = 2.0


def said(form: str, crf: LinearChainCRF, emissions: torch.Tensor) -> Lesson:
    with torch.no_grad():
        if form == "sequence":
            log_marginals, transitions, entropy = (each.float() for each in expectations(crf, emissions, MASK, T))
            return Lesson(log_probabilities=log_marginals, transitions=transitions, entropy=entropy)
        if form == "marginal":
            return Lesson(log_probabilities=crf.log_partition_and_marginals(emissions, MASK)[1])
        return Lesson(log_probabilities=torch.log_softmax(emissions, -1))


@pytest.mark.parametrize("form", FORMS)
def test_one_fixed_teacher_teaches_what_a_detached_one_does(form: str) -> None:
    torch.manual_seed(3)
    crf = LinearChainCRF(4)
    teacher, student = torch.randn(2, 3, 4), torch.randn(2, 3, 4, requires_grad=True)
    _, of_student = crf.log_partition_and_marginals(student, MASK)
    _, of_teacher = crf.log_partition_and_marginals(teacher, MASK)
    moving = FORMS[form](crf, TwoViews(teacher, student, of_teacher.detach(), of_student, MASK), T)
    teaching = Teaching(("text_only",), 1.0, T, form, "none", 0.0)
    fixed = teaching.divergences(crf, said(form, crf, teacher), student, of_student, MASK)
    torch.testing.assert_close(fixed, moving, rtol=1e-4, atol=1e-5)
    one, other = (torch.autograd.grad(each.sum(), student, retain_graph=True)[0] for each in (fixed, moving))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert float(one.abs().max()) > 0.01
    assert not one[1, 1:].any()


def test_labels_that_the_teacher_rules_out_leave_the_loss_finite() -> None:
    crf = LinearChainCRF(2)
    student = torch.zeros(1, 1, 2, requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    _, of_student = crf.log_partition_and_marginals(student, mask)
    lesson = Lesson(log_probabilities=torch.tensor([[[0.0, -torch.inf]]]))
    found = Teaching(("text_only",), 1.0, 1.0, "marginal", "none", 0.0).divergences(
        crf, lesson, student, of_student, mask
    )
    assert found.item() == pytest.approx(-of_student[0, 0, 0].item())
    found.sum().backward()
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [("threshold", [1.0, 0.0, 0.0]), ("certainty", None), ("surer", [1.0, 0.0, 1.0])],
)
@pytest.mark.parametrize("form", ["marginal", "sequence"])
def test_tokens_count_where_the_teacher_is_sure(confidence: str, expected: list[float] | None, form: str) -> None:
    crf = LinearChainCRF(2)
    torch.nn.init.zeros_(crf.transitions)
    sure = torch.tensor([0.95, 0.5, 0.8])
    teacher = torch.stack([sure, 1 - sure], -1).log()[None]
    student = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.1, 0.0]]], requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    _, of_student = crf.log_partition_and_marginals(student, mask)
    if expected is None:
        expected = [1 + (p * math.log(p) + (1 - p) * math.log(1 - p)) / math.log(2) for p in sure.tolist()]
    lesson = Lesson(log_probabilities=teacher, transitions=torch.zeros(1, 2, 2), entropy=torch.zeros(1))

    def loss(how: str) -> torch.Tensor:
        teaching = Teaching(("text_only",), 1.0, 1.0, form, how, 0.9)
        return teaching.divergences(crf, lesson, student, of_student, mask)

    [whole] = torch.autograd.grad(loss("none").sum(), student, retain_graph=True)
    [weighed] = torch.autograd.grad(loss(confidence).sum(), student)
    weights = torch.tensor(expected)
    if form == "sequence":
        weights = weights.mean().expand(3)
    torch.testing.assert_close(weighed, whole * weights[None, :, None], rtol=1e-4, atol=1e-6)


def test_a_batch_is_padded_with_what_is_impossible() -> None:
    torch.manual_seed(0)
    posts = [PostLesson(torch.randn(n, 2).numpy(), torch.ones(2, 2).numpy() * n, float(n)) for n in (1, 3)]
    batch = collate_lessons(posts)
    assert batch["log_probabilities"].isinf().sum().item() == 4
    assert batch["log_probabilities"].shape == (2, 3, 2)
    assert batch["transitions"][1, 0, 0].item() == 3
    assert batch["entropy"].tolist() == [1.0, 3.0]
