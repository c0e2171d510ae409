"""The Triton kernels against the plain recursion. On a machine without a GPU,

    TRITON_INTERPRET=1 pytest tests/ner/crf/test_kernels.py

runs them on the CPU, and without that variable they are compiled for GPUs, but not run.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from ner.bioes import allowed_transitions
from ner.crf import recursions
from ner.crf.chain import LinearChainCRF
from ner.crf.evidence import log_evidence

triton = pytest.importorskip("triton", reason="needs Triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
runs = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU, or TRITON_INTERPRET=1 to run on the CPU"
)
LENGTHS = torch.tensor([6, 1, 4])
MASK = torch.arange(6) < LENGTHS[:, None]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(11)


@runs
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("n_labels", [1, 5, 17, 33])
def test_kernels_give_the_messages_of_the_plain_recursion_and_their_derivative(
    n_labels: int, scale: float, dtype: torch.dtype
) -> None:
    from ner.crf.kernels import KernelMessages

    transitions = torch.randn(n_labels, n_labels, dtype=torch.float64) * scale
    transitions[torch.rand_like(transitions) < 0.1] = recursions.IMPOSSIBLE
    scores = [
        (torch.randn(3, 6, n_labels) * scale).to(dtype),
        torch.stack([transitions, transitions.T]),
        torch.randn(2, n_labels, dtype=torch.float64) * scale,
    ]
    inside = MASK[:, :, None].to(DEVICE)
    weights = torch.randn(2, 2, 3, 6, n_labels, dtype=torch.float64).to(DEVICE)

    def both(run: Any) -> list[Tensor]:
        leaves = [score.to(DEVICE).requires_grad_() for score in scores]
        messages = run(*leaves, LENGTHS.to(DEVICE)).masked_fill(~inside, 0.0)
        return [messages, *torch.autograd.grad(messages, leaves, weights)]

    for found, wanted in zip(both(KernelMessages.apply), both(recursions.plain_messages), strict=True):
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=1e-6 if wanted.dtype == torch.float32 else 1e-10, atol=1e-9)


@runs
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_crf_is_the_same_on_kernels_as_on_a_cpu(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["O", "B-X", "I-X", "E-X", "S-X"]
    crf = LinearChainCRF(5, allowed_transitions(labels)).double()
    views = [(torch.randn(3, 6, 5, dtype=torch.float64) * scale).requires_grad_() for _ in range(2)]
    weights = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    seen = torch.rand(3, 6, 5).log().masked_fill(torch.rand(3, 6, 5) < 0.5, -torch.inf)
    seen[..., 0] = 0.0  # so that something is possible

    def outcome(device: str) -> list[Tensor]:
        crf.to(device)
        student, teacher = (view.to(device) for view in views)
        mask, gold = MASK.to(device), torch.zeros(3, 6, dtype=torch.int64, device=device)
        likelihood, *marginals = crf.two_views(student, teacher, gold, mask, detach_teacher=False)
        known = sum(
            (one.masked_fill(one.isinf(), 0.0) * weight).sum()
            for one, weight in zip(marginals, weights.to(device), strict=True)
        )
        evidence = log_evidence(crf, student, seen.to(device), mask)
        objective = likelihood.sum() + known + crf.kl(teacher, student, mask, 2.0).sum() + evidence.sum()
        gradients = torch.autograd.grad(objective, [*views, *crf.parameters()])
        return [each.cpu() for each in (likelihood, *marginals, evidence, *gradients)]

    wanted = outcome("cpu")
    monkeypatch.setattr(recursions, "KERNEL_DEVICES", {DEVICE})
    monkeypatch.setattr(crf, "_mixing", None)  # not in the linear domain
    torch.testing.assert_close(outcome(DEVICE), wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.skipif(INTERPRETED, reason="interpreted kernels are not compiled")
@pytest.mark.parametrize("tile", [1, 32])
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", ["run_forward", "run_backward"])
def test_kernels_compile_for_nvidia_gpus(name: str, capability: int, tile: int) -> None:
    from ner.crf import kernels

    kernel: Any = getattr(kernels, name)
    kinds = {
        "lengths": "*i64",
        "emissions": "*fp32",
        "batch": "i32",
        "longest": "i32",
        "n_labels": "i32",
        "TILE": "constexpr",
    }
    signature = {argument: kinds.get(argument, "*fp64") for argument in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, constexprs={"TILE": tile})
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    assert triton.compile(source, target=target).asm["cubin"]
