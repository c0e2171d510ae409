"""The CRF's speed against pytorch-crf's and flair's, with the same weights on the same emissions.

``python -m benchmarks.crf`` in any environment with torch and pytorch-crf; where flair can be imported, its CRF takes
part. Every contestant's results are compared before it is timed, so that nobody is fast and wrong.
"""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchcrf
from torch import Tensor

from benchmarks import Ratio, keep_freed_memory, machine, median_seconds, report
from ner.crf.chain import LinearChainCRF
from ner.models.alignment import TwoViews, marginal
from pipeline.core.errors import UserError, run_cli

BATCHES, LENGTH, N_LABELS = (32, 128), 40, 17
# Over pytorch-crf, likelihood and gradient, by batch.
CPU_TARGETS, GPU_TARGETS = {32: 3.0, 128: 6.0}, {32: 10.0, 128: 10.0}
FLAIR_TARGET = 5.0
KL_CEILING = 3.0


class Tensors:
    """One batch: emissions of two views, gold labels, a chain and pytorch-crf's twin of it."""

    def __init__(self, batch: int, device: str) -> None:
        torch.manual_seed(batch)
        self.crf = LinearChainCRF(N_LABELS).to(device)
        with torch.no_grad():
            for parameter in self.crf.parameters():
                parameter.normal_()
        self.pytorch_crf = torchcrf.CRF(N_LABELS, batch_first=True).to(device)
        with torch.no_grad():
            self.pytorch_crf.transitions.copy_(self.crf.transitions)
            self.pytorch_crf.start_transitions.copy_(self.crf.start)
            self.pytorch_crf.end_transitions.copy_(self.crf.stop)
        self.emissions = (3 * torch.randn(batch, LENGTH, N_LABELS, device=device)).requires_grad_()
        self.teacher = self.emissions.detach() + torch.randn_like(self.emissions)
        self.labels = torch.randint(N_LABELS, (batch, LENGTH), device=device)
        self.mask = torch.ones(batch, LENGTH, dtype=torch.bool, device=device)

    def gradients(self, objective: Tensor, crf: torch.nn.Module) -> tuple[Tensor, ...]:
        """Of the emissions and the chain's parameters (transitions, start, stop)."""
        names = ["transitions", *(("start", "stop") if crf is self.crf else ("start_transitions", "end_transitions"))]
        return torch.autograd.grad(objective, [self.emissions, *(getattr(crf, name) for name in names)])

    def our_likelihood(self) -> tuple[Tensor, ...]:
        """Likelihood and gradient."""
        return self.gradients(self.crf.log_likelihood(self.emissions, self.labels, self.mask).sum(), self.crf)

    def their_likelihood(self) -> tuple[Tensor, ...]:
        """The same by pytorch-crf."""
        objective = self.pytorch_crf(self.emissions, self.labels, self.mask, reduction="sum")
        return self.gradients(objective, self.pytorch_crf)

    def our_kl(self) -> tuple[Tensor, ...]:
        """ITA's marginal KL from two views' emissions, teacher detached, and its gradient."""
        student, teacher = self.crf.two_view_marginals(self.emissions, self.teacher, self.mask, detach_teacher=True)
        views = TwoViews(self.teacher, self.emissions, teacher, student, self.mask)
        return self.gradients(marginal(self.crf, views, 4.0).sum(), self.crf)

    def our_viterbi(self) -> list[list[int]]:
        """Best paths."""
        return self.crf.viterbi(self.emissions, self.mask)[0].tolist()

    def their_viterbi(self) -> list[list[int]]:
        """The same by pytorch-crf."""
        with torch.no_grad():
            return self.pytorch_crf.decode(self.emissions, self.mask)


class Flair:
    """flair's CRF with the weights of a batch's chain; it counts <START> and <STOP> among the labels."""

    def __init__(self, tensors: Tensors, device: str) -> None:
        import flair  # slow to import, and not installed in most environments
        from flair.data import Dictionary
        from flair.models.sequence_tagger_utils.crf import CRF
        from flair.models.sequence_tagger_utils.viterbi import ViterbiDecoder

        flair.device = torch.device(device)
        dictionary = Dictionary(add_unk=False)
        for item in [*map(str, range(N_LABELS)), "<START>", "<STOP>"]:
            dictionary.add_item(item)
        dictionary.set_start_stop_tags()
        self.lengths = torch.full((len(tensors.labels),), LENGTH)
        self.decoder = ViterbiDecoder(dictionary)
        self.crf = CRF(dictionary, N_LABELS + 2, init_from_state_dict=False).to(device)
        transitions = self.crf.transitions.data  # from column to row
        transitions[:N_LABELS, :N_LABELS] = tensors.crf.transitions.detach().T
        transitions[:N_LABELS, N_LABELS] = tensors.crf.start.detach()
        transitions[N_LABELS + 1, :N_LABELS] = tensors.crf.stop.detach()
        transitions[N_LABELS + 1, N_LABELS] = -10_000.0  # no post is empty
        impossible = tensors.emissions.new_full((*tensors.mask.shape, 2), -10_000.0)
        self.emissions = torch.cat([tensors.emissions.detach(), impossible], dim=-1)

    def viterbi(self) -> list[list[tuple[str, float]]]:
        """Best paths, as flair gives them: with a score for each label, which is no probability of a path."""
        with torch.no_grad():
            scores = self.crf(self.emissions)
            return self.decoder.decode((scores, self.lengths, self.crf.transitions), False, [])[0]


def measure(batch: int, device: str, rounds: int, *, with_flair: bool) -> list[Ratio]:
    """Ratios for one batch size.

    Raises:
        RuntimeError: two contestants do not agree.
    """
    tensors = Tensors(batch, device)
    for ours, theirs in zip(tensors.our_likelihood(), tensors.their_likelihood(), strict=True):
        if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
            raise RuntimeError("gradients of the likelihood differ from pytorch-crf's")
    paths = tensors.our_viterbi()
    if paths != tensors.their_viterbi():
        raise RuntimeError("best paths differ from pytorch-crf's")

    def forward_only() -> Any:
        with torch.no_grad():
            return tensors.crf.log_likelihood(tensors.emissions, tensors.labels, tensors.mask)

    # Each comparison by itself: what else runs in between would decide what is left in the caches.
    comparisons: list[dict[str, Callable[[], object]]] = [
        {"likelihood": tensors.our_likelihood, "pytorch-crf": tensors.their_likelihood},
        {"likelihood": tensors.our_likelihood, "forward": forward_only, "kl": tensors.our_kl},
        {"viterbi": tensors.our_viterbi, "pytorch-crf": tensors.their_viterbi},
    ]
    if with_flair:
        flair = Flair(tensors, device)
        if [[int(label) for label, _ in path] for path in flair.viterbi()] != paths:
            raise RuntimeError("best paths differ from flair's")
        comparisons[2]["flair"] = flair.viterbi
    likelihood, divergence, viterbi = (median_seconds(each, rounds, device=device) for each in comparisons)
    targets = GPU_TARGETS if device.startswith("cuda") else CPU_TARGETS
    ratios = [
        Ratio(
            f"likelihood and gradient: pytorch-crf / ours, batch {batch}",
            likelihood["pytorch-crf"] / likelihood["likelihood"],
            targets[batch],
        ),
        Ratio(
            f"marginal KL with gradient / likelihood with gradient, batch {batch}",
            divergence["kl"] / divergence["likelihood"],
            KL_CEILING,
            ceiling=True,
        ),
        Ratio(f"marginal KL with gradient / likelihood alone, batch {batch}", divergence["kl"] / divergence["forward"]),
        Ratio(f"Viterbi: pytorch-crf / ours, batch {batch}", viterbi["pytorch-crf"] / viterbi["viterbi"]),
    ]
    if with_flair:
        ratios.append(Ratio(_flair_name(batch), viterbi["flair"] / viterbi["viterbi"], FLAIR_TARGET))
    return ratios


def _flair_name(batch: int) -> str:
    return f"Viterbi: flair / ours, batch {batch}"


def main() -> None:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crf", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the ratios there, too")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contestant [%(default)s]")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … [%(default)s]")
    parser.add_argument("--threads", type=int, help="of torch [its own choice]")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or (arguments.threads or 1) < 1:
        raise UserError("--rounds and --threads: expected at least 1")
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {arguments.device}: no GPU here; use cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    with_flair = importlib.util.find_spec("flair") is not None
    ratios = [
        ratio
        for batch in BATCHES
        for ratio in measure(batch, arguments.device, arguments.rounds, with_flair=with_flair)
    ]
    reason = "flair cannot be imported here; run this in an environment that has it"
    report(
        ratios,
        machine(arguments.device),
        arguments.json,
        {} if with_flair else {_flair_name(batch): reason for batch in BATCHES},
    )


if __name__ == "__main__":
    run_cli(main)
