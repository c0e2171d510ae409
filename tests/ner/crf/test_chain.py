"""The CRF against enumeration of every path, against pytorch-crf, and at the edges of floating point."""

import itertools

import pytest
import torch
import torchcrf
from torch import Tensor

from ner.bioes import allowed_transitions
from ner.crf.chain import LinearChainCRF
from ner.crf.recursions import scaled_messages, steps_to_mix

LABELS = ["O", "B-X", "I-X", "E-X", "S-X"]
LENGTHS = [5, 3, 1, 2]
SCALES = [1.0, 30.0, 1e4]  # the last one leaves the scaled recursion for the log domain
# 17 labels, as four entity types in BIOES have.
MANY_LABELS = ["O", *(f"{prefix}-{kind}" for kind in "ABCD" for prefix in "BIES")]


def random_crf(exclude_forbidden: bool = True, labels: list[str] = LABELS) -> LinearChainCRF:
    crf = LinearChainCRF(len(labels), allowed_transitions(labels), exclude_forbidden).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_()
    return crf


def random_batch(scale: float = 1.0, lengths: list[int] = LENGTHS, n_labels: int = 5) -> tuple[Tensor, Tensor]:
    emissions = torch.randn(len(lengths), max(lengths), n_labels, dtype=torch.float64) * scale
    return emissions, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


class Enumeration:
    """All paths of one sequence and their log-scores, written without a recursion."""

    def __init__(self, crf: LinearChainCRF, emissions: Tensor, length: int, forbid: bool | None = None) -> None:
        n_labels = emissions.shape[-1]
        transitions: Tensor = crf.transitions
        start: Tensor = crf.start
        stop: Tensor = crf.stop
        if crf.exclude_forbidden if forbid is None else forbid:
            transitions = transitions.masked_fill(~crf.allowed_transitions, -torch.inf)
            start = start.masked_fill(~crf.allowed_start, -torch.inf)
            stop = stop.masked_fill(~crf.allowed_stop, -torch.inf)
        self.paths = torch.tensor(list(itertools.product(range(n_labels), repeat=length)))
        self.scores = start[self.paths[:, 0]] + stop[self.paths[:, -1]]
        for t in range(length):
            self.scores = self.scores + emissions[t, self.paths[:, t]]
        for t in range(1, length):
            self.scores = self.scores + transitions[self.paths[:, t - 1], self.paths[:, t]]
        self.log_partition = self.scores.logsumexp(0)

    def log_probability(self, chosen: Tensor) -> Tensor:
        return self.scores[chosen].logsumexp(0) - self.log_partition


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_partition_marginals_and_their_gradients_equal_enumeration(scale: float, exclude: bool) -> None:
    crf = random_crf(exclude)
    emissions, mask = random_batch(scale)
    emissions.requires_grad_()
    partition, log_marginals = crf.log_partition_and_marginals(emissions, mask)
    possible = log_marginals.isfinite()
    weights = torch.randn_like(log_marginals)
    objective = (log_marginals.masked_fill(~possible, 0.0) * weights).sum()
    objective = objective + partition @ torch.arange(1.0, 5.0).double()
    gradients = torch.autograd.grad(objective, [emissions, *crf.parameters()])

    expected = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        every = Enumeration(crf, emissions[row], length)
        torch.testing.assert_close(partition[row], every.log_partition)
        expected = expected + every.log_partition * (row + 1)
        for t, label in itertools.product(range(length), range(len(LABELS))):
            wanted = every.log_probability(every.paths[:, t] == label)
            torch.testing.assert_close(log_marginals[row, t, label], wanted, rtol=1e-9, atol=1e-9)
            if wanted.isfinite():
                expected = expected + weights[row, t, label] * wanted
        assert not log_marginals[row, length:].isfinite().any()
    wanted_gradients = torch.autograd.grad(expected, [emissions, *crf.parameters()])
    for gradient, wanted in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted.nan_to_num(0.0), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_pairwise_marginals_equal_enumeration(scale: float) -> None:
    crf = random_crf()
    emissions, mask = random_batch(scale)
    pairs = crf.pairwise_marginals(emissions, mask)
    for row, length in enumerate(LENGTHS):
        every = Enumeration(crf, emissions[row], length)
        for t, before, label in itertools.product(range(1, length), range(5), range(5)):
            chosen = (every.paths[:, t - 1] == before) & (every.paths[:, t] == label)
            torch.testing.assert_close(pairs[row, t - 1, before, label], every.log_probability(chosen).exp())
        assert not pairs[row, max(length - 1, 0) :].any()


@pytest.mark.parametrize("scale", SCALES)
def test_likelihood_equals_enumeration(scale: float) -> None:
    crf = random_crf()
    emissions, mask = random_batch(scale)
    labels = torch.tensor([[1, 2, 3, 0, 4], [4, 1, 3, -100, -100], [0, 9, 9, 9, 9], [1, 3, 0, 0, 0]])
    likelihood = crf.log_likelihood(emissions, labels, mask)
    for row, length in enumerate(LENGTHS):
        every = Enumeration(crf, emissions[row], length)
        chosen = (every.paths == labels[row, :length]).all(1)
        torch.testing.assert_close(likelihood[row], every.log_probability(chosen))


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_viterbi_finds_the_best_allowed_path(scale: float, exclude: bool) -> None:
    crf = random_crf(exclude)
    emissions, mask = random_batch(scale)
    paths, scores = crf.viterbi(emissions, mask)
    for row, length in enumerate(LENGTHS):
        every = Enumeration(crf, emissions[row], length, forbid=True)
        best = int(every.scores.argmax())
        assert paths[row, :length].tolist() == every.paths[best].tolist()
        assert not paths[row, length:].any()
        torch.testing.assert_close(scores[row], every.scores[best])


def test_viterbi_never_decodes_what_bioes_forbids() -> None:
    crf = LinearChainCRF(len(MANY_LABELS), allowed_transitions(MANY_LABELS), exclude_forbidden=False)
    emissions, mask = random_batch(20.0, [40] * 30, len(MANY_LABELS))
    with torch.no_grad():
        crf.transitions.masked_fill_(~crf.allowed_transitions, 50.0)  # tempted
    paths, _ = crf.viterbi(emissions.float(), mask)
    assert crf.allowed_transitions[paths[:, :-1], paths[:, 1:]].all()
    assert crf.allowed_start[paths[:, 0]].all()
    assert crf.allowed_stop[paths[:, -1]].all()


@pytest.mark.parametrize("scale", SCALES)
def test_span_log_probability_equals_enumeration(scale: float) -> None:
    crf = random_crf()
    emissions, mask = random_batch(scale)
    labels = torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [1, 3, 0, 0, 0]])
    spans = torch.tensor([[0, 1, 4], [0, 4, 5], [1, 0, 3], [2, 0, 1], [3, 0, 2], [0, 0, 5], [0, 0, 1]])
    found = crf.span_log_probability(emissions, mask, labels, spans)
    for log_probability, (row, start, end) in zip(found, spans.tolist(), strict=True):
        every = Enumeration(crf, emissions[row], LENGTHS[row])
        chosen = (every.paths[:, start:end] == labels[row, start:end]).all(1)
        torch.testing.assert_close(log_probability, every.log_probability(chosen), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("detached", [False, True], ids=["live teacher", "detached teacher"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_of_two_sequence_distributions_equals_enumeration(temperature: float, detached: bool) -> None:
    crf = random_crf()
    teacher, mask = random_batch(2.0)
    student, _ = random_batch(2.0)
    teacher.requires_grad_(not detached)
    student.requires_grad_()
    moved = [student, *crf.parameters()] if detached else [teacher, student, *crf.parameters()]
    divergence = crf.kl(teacher, student, mask, temperature)
    gradients = torch.autograd.grad(divergence.sum(), moved)
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        p, q = (Enumeration(crf, emissions[row], length).scores for emissions in (teacher, student))
        p, q = (torch.log_softmax(scores[scores.isfinite()] / temperature, 0) for scores in (p, q))
        p = p.detach() if detached else p
        wanted = (p.exp() * (p - q)).sum()
        torch.testing.assert_close(divergence[row], wanted)
        total = total + wanted
    wanted_gradients = torch.autograd.grad(total, moved)
    for gradient, wanted in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted.nan_to_num(0.0), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_gradcheck_of_partition_and_marginals(scale: float) -> None:
    crf = random_crf(exclude_forbidden=False)
    emissions, mask = random_batch(1.0, [4, 2, 1])
    emissions[0, 1, 2] += scale  # with 300, out of the scaled recursion's range
    with torch.no_grad():
        in_log_domain = scaled_messages(crf._chain(emissions, mask), crf._mixing) is None
    assert in_log_domain == (scale > 1), "the scale does not choose the recursion that this test means to check"

    def outputs(emissions: Tensor, transitions: Tensor, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
        parameters = {"transitions": transitions, "start": start, "stop": stop}
        named = {f"crf.{name}": value for name, value in parameters.items()}
        return torch.func.functional_call(_Outputs(crf), named, (emissions, mask))

    inputs = [emissions, *(parameter.detach().clone() for parameter in crf.parameters())]
    assert torch.autograd.gradcheck(outputs, [value.requires_grad_() for value in inputs])


class _Outputs(torch.nn.Module):
    def __init__(self, crf: LinearChainCRF) -> None:
        super().__init__()
        self.crf = crf

    def forward(self, emissions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        partition, log_marginals = self.crf.log_partition_and_marginals(emissions, mask)
        return partition, log_marginals[mask]


def test_likelihood_gradient_and_decode_agree_with_pytorch_crf() -> None:
    n_labels, lengths = 9, [12, 7, 1, 30]
    crf, reference = LinearChainCRF(n_labels).double(), torchcrf.CRF(n_labels, batch_first=True).double()
    with torch.no_grad():
        for parameter, of_reference in (
            (crf.transitions, reference.transitions),
            (crf.start, reference.start_transitions),
            (crf.stop, reference.end_transitions),
        ):
            parameter.copy_(of_reference.normal_())
    emissions, mask = random_batch(3.0, lengths, n_labels)
    labels = torch.randint(n_labels, mask.shape)
    emissions.requires_grad_()
    ours = crf.log_likelihood(emissions, labels, mask)
    theirs = reference(emissions, labels, mask, reduction="none")
    torch.testing.assert_close(ours, theirs)
    our_gradients = torch.autograd.grad(ours.sum(), [emissions, crf.transitions, crf.start, crf.stop])
    their_gradients = torch.autograd.grad(
        theirs.sum(), [emissions, reference.transitions, reference.start_transitions, reference.end_transitions]
    )
    for gradient, wanted in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted)
    paths, _ = crf.viterbi(emissions, mask)
    for path, length, wanted_path in zip(paths, lengths, reference.decode(emissions, mask), strict=True):
        assert path[:length].tolist() == wanted_path


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_two_views_at_once_equal_each_by_itself(scale: float, detach: bool) -> None:
    crf = random_crf()
    (student, mask), (teacher, _) = random_batch(scale), random_batch(scale)
    student.requires_grad_()
    teacher.requires_grad_()
    leaves = [student, teacher, *crf.parameters()]
    labels = torch.tensor([[1, 2, 3, 0, 4], [4, 1, 3, 9, 9], [0, 9, 9, 9, 9], [1, 3, 0, 0, 0]])
    weights = torch.randn(2, *student.shape, dtype=torch.float64)

    def objective(likelihoods: Tensor, *log_marginals: Tensor) -> Tensor:
        possible = (each.masked_fill(each.isinf(), 0.0) for each in log_marginals)
        return likelihoods.sum() + sum((one * weight).sum() for one, weight in zip(possible, weights, strict=True))

    both = crf.two_views(student, teacher, labels, mask, detach_teacher=detach)
    assert both[2].requires_grad is not detach
    alone = [
        (crf.log_likelihood(view, labels, mask), crf.log_partition_and_marginals(view, mask)[1])
        for view in (student, teacher)
    ]
    of_teacher = alone[1][1].detach() if detach else alone[1][1]
    wanted = objective(torch.stack([alone[0][0], alone[1][0]]), alone[0][1], of_teacher)
    torch.testing.assert_close(both[0], torch.stack([alone[0][0], alone[1][0]]))
    torch.testing.assert_close(both[1:], (alone[0][1], alone[1][1]))
    torch.testing.assert_close(crf.two_view_marginals(student, teacher, mask, detach_teacher=detach), both[1:])
    for gradient, expected in zip(
        torch.autograd.grad(objective(*both), leaves), torch.autograd.grad(wanted, leaves), strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 64, 512])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 40.0, 1e4])
def test_extreme_scores_and_lengths_stay_finite(length: int, scale: float) -> None:
    crf = LinearChainCRF(len(MANY_LABELS), allowed_transitions(MANY_LABELS))
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_().mul_(scale)
    emissions = (torch.randn(2, length, len(MANY_LABELS)) * scale).requires_grad_()
    mask = torch.ones(2, length, dtype=torch.bool)
    mask[1, (length + 1) // 2 :] = False
    partition, log_marginals = crf.log_partition_and_marginals(emissions, mask)
    possible = log_marginals.isfinite()
    assert partition.isfinite().all()
    assert possible[mask].any(-1).all()
    torch.testing.assert_close(log_marginals[mask].exp().sum(-1), torch.ones(int(mask.sum())))
    (partition.sum() + log_marginals.masked_fill(~possible, 0.0).mean()).backward()
    for gradient in (emissions.grad, *(parameter.grad for parameter in crf.parameters())):
        assert gradient is not None
        assert gradient.isfinite().all()
    paths, scores = crf.viterbi(emissions, mask)
    assert (scores <= partition + 1e-3 * partition.abs() + 1e-3).all()
    spans = torch.tensor([[0, 0, length]])
    assert (crf.span_log_probability(emissions, mask, paths, spans) <= 0).all()


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("spread", [10.0, 30.0, 60.0])
def test_the_linear_domain_agrees_with_the_log_domain_up_to_its_limit(spread: float, exclude: bool) -> None:
    crf = random_crf(exclude, MANY_LABELS)
    emissions, mask = random_batch(1.0, [90, 41, 1], len(MANY_LABELS))
    # A label's emission is its best or its worst: nothing lies in between to ease the way.
    emissions = torch.where(emissions > 0.5, spread, 0.0).requires_grad_()
    weights = torch.randn(3, 90, len(MANY_LABELS), dtype=torch.float64)

    def outcome() -> list[Tensor]:
        partition, log_marginals = crf.log_partition_and_marginals(emissions, mask)
        objective = partition.sum() + (log_marginals.masked_fill(log_marginals.isinf(), 0.0) * weights).sum()
        return [partition, log_marginals, *torch.autograd.grad(objective, [emissions, *crf.parameters()])]

    linear = outcome()
    with torch.no_grad():
        assert scaled_messages(crf._chain(emissions, mask), crf._mixing) is not None, "out of the linear domain's range"
    crf._mixing = None  # to the log domain
    torch.testing.assert_close(linear, outcome(), rtol=1e-7, atol=1e-8)


def test_one_label_is_certain() -> None:
    crf = LinearChainCRF(1)
    emissions = torch.randn(2, 4, 1, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    likelihood = crf.log_likelihood(emissions, torch.zeros(2, 4, dtype=torch.long), mask)
    torch.testing.assert_close(likelihood, torch.zeros(2))
    torch.testing.assert_close(crf.marginals(emissions, mask)[..., 0], mask.float())


def test_padding_changes_nothing_not_even_when_it_is_nan() -> None:
    crf = random_crf()
    emissions, mask = random_batch()
    labels = torch.zeros_like(mask, dtype=torch.long)
    dirty = emissions.masked_fill(~mask.unsqueeze(-1), torch.nan).requires_grad_()
    torch.testing.assert_close(crf.log_likelihood(dirty, labels, mask), crf.log_likelihood(emissions, labels, mask))
    (crf.log_likelihood(dirty, labels, mask).sum() + crf.marginals(dirty, mask).square().sum()).backward()
    assert dirty.grad is not None
    assert dirty.grad.isfinite().all()
    for row, length in enumerate(LENGTHS):
        alone = crf.log_partition(emissions[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(alone, crf.log_partition(emissions, mask)[row : row + 1])


def test_scores_are_computed_in_float32_or_better_under_autocast() -> None:
    crf = random_crf().float()
    emissions, mask = random_batch()
    wanted = crf.log_partition(emissions.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = crf.log_partition(emissions.float(), mask)
        halved = crf.log_partition(emissions.bfloat16(), mask)
    assert found.dtype == halved.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_mixing_of_bioes_takes_three_steps() -> None:
    assert steps_to_mix(allowed_transitions(MANY_LABELS)[0]) == 3
    assert steps_to_mix(torch.ones(4, 4, dtype=torch.bool)) == 1
    assert steps_to_mix(torch.eye(2, dtype=torch.bool)) is None


@pytest.mark.parametrize("scale", SCALES)
def test_inference_mode_gives_the_same(scale: float) -> None:
    crf = random_crf()
    emissions, mask = random_batch(scale)
    recorded = crf.log_partition_and_marginals(emissions.requires_grad_(), mask)
    with torch.inference_mode():
        found = crf.log_partition_and_marginals(emissions.detach(), mask)
    for ours, wanted in zip(found, recorded, strict=True):
        assert torch.equal(ours, wanted.detach())
