"""The CRF never makes a GPU's host wait: nothing that it computes is read back to decide what comes next."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from ner.bioes import allowed_transitions
from ner.crf import recursions
from ner.crf.chain import LinearChainCRF
from ner.models.alignment import FORMS, TwoViews

LABELS = ["O", *(f"{prefix}-{kind}" for kind in "ABCD" for prefix in "BIES")]


class Batch:
    """Two views' emissions of three sequences, on a device."""

    def __init__(self, device: str) -> None:
        torch.manual_seed(3)
        self.crf = LinearChainCRF(len(LABELS), allowed_transitions(LABELS)).to(device)
        self.student = torch.randn(3, 6, len(LABELS)).to(device).requires_grad_()
        self.teacher = torch.randn(3, 6, len(LABELS)).to(device)
        self.mask = (torch.arange(6) < torch.tensor([6, 1, 4])[:, None]).to(device)
        self.labels = torch.zeros(3, 6, dtype=torch.int64).to(device)
        self.spans = torch.tensor([[0, 1, 4], [2, 0, 2]]).to(device)


def likelihood(batch: Batch) -> Tensor:
    return batch.crf.log_likelihood(batch.student, batch.labels, batch.mask)


def log_marginals(batch: Batch) -> Tensor:
    return batch.crf.log_partition_and_marginals(batch.student, batch.mask)[1].exp()


def pairwise_marginals(batch: Batch) -> Tensor:
    return batch.crf.pairwise_marginals(batch.student, batch.mask)


def two_views(batch: Batch, form: str) -> Tensor:
    both = batch.crf.two_views(batch.student, batch.teacher, batch.labels, batch.mask, detach_teacher=True)
    views = TwoViews(batch.teacher, batch.student, both[2], both[1], batch.mask)
    return both[0].sum() + FORMS[form](batch.crf, views, 4.0)


def viterbi(batch: Batch) -> Tensor:
    return batch.crf.viterbi(batch.student, batch.mask)[1]


def span_log_probability(batch: Batch) -> Tensor:
    return batch.crf.span_log_probability(batch.student, batch.mask, batch.labels, batch.spans)


ASKED: dict[str, Callable[[Batch], Tensor]] = {
    **{
        function.__name__: function
        for function in (likelihood, log_marginals, pairwise_marginals, viterbi, span_log_probability)
    },
    **{f"two views, {form}": partial(two_views, form=form) for form in FORMS},
}


def ask(batch: Batch, asked: str) -> list[Tensor]:
    """What was asked for, and its gradients where it has any."""
    found = ASKED[asked](batch)
    if not found.requires_grad:
        return [found]
    return [found.detach(), *torch.autograd.grad(found.sum(), [batch.student, *batch.crf.parameters()])]


@pytest.mark.parametrize("asked", ASKED)
def test_no_value_is_asked_for(asked: str) -> None:
    # A tensor on "meta" has a shape and no values: whatever needs one raises.
    for found, wanted in zip(ask(Batch("meta"), asked), ask(Batch("cpu"), asked), strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)


@pytest.fixture
def synchronization_raises() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("asked", ASKED)
def test_a_gpu_gives_the_same_and_never_synchronizes(asked: str, request: pytest.FixtureRequest) -> None:
    batch = Batch("cuda")
    ask(batch, asked)  # compiles what needs to be compiled
    request.getfixturevalue("synchronization_raises")
    found = ask(batch, asked)
    torch.cuda.set_sync_debug_mode("default")
    for one, wanted in zip(found, ask(Batch("cpu"), asked), strict=True):
        torch.testing.assert_close(one.cpu(), wanted, rtol=1e-4, atol=1e-5)


def test_a_chain_of_very_many_labels_goes_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    # Were a kernel chosen, it would refuse tensors on a CPU, or Triton be missing.
    monkeypatch.setattr(recursions, "KERNEL_DEVICES", {"cpu"})
    crf = LinearChainCRF(recursions.MAX_KERNEL_LABELS + 1)
    emissions = torch.randn(2, 3, recursions.MAX_KERNEL_LABELS + 1)
    mask = torch.ones(2, 3, dtype=torch.bool)
    marginals = crf.pairwise_marginals(emissions, mask)
    torch.testing.assert_close(marginals.sum((2, 3)), torch.ones(2, 2))
