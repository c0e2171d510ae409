"""A loss whose gradient is taken at once gives its parameters what the loss itself would give them."""

import pytest
import torch
from torch import Tensor, nn

from ner.models.gradients import gradient_taken


def a_loss(parameters: list[nn.Parameter]) -> Tensor:
    """Of the first three parameters; the second and third get one and the same tensor as their gradient."""
    return (parameters[0].sin() * (parameters[1] + parameters[2])).sum()


def test_gradients_are_scaled_added_up_and_accumulated_as_any_other() -> None:
    torch.manual_seed(0)
    gradients = []
    for take in (False, True):
        torch.manual_seed(0)
        parameters = [nn.Parameter(torch.randn(4)) for _ in range(4)]
        for _ in range(2):  # accumulated
            loss = a_loss(parameters)
            if take:
                loss = gradient_taken(loss, parameters)
            (0.3 * (loss + (parameters[0] * parameters[3]).sum())).backward()
        gradients.append([parameter.grad for parameter in parameters])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_graph_is_let_go() -> None:
    parameters = [nn.Parameter(torch.ones(4)) for _ in range(3)]
    loss = a_loss(parameters)
    taken = gradient_taken(loss, parameters)
    assert torch.equal(taken, loss)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()
    taken.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="was handed on before"):
        taken.backward()


def test_parameters_out_of_reach_get_no_gradient() -> None:
    parameters = [nn.Parameter(torch.ones(4)) for _ in range(4)]
    parameters[1].requires_grad_(False)
    gradient_taken(a_loss(parameters), parameters).backward()
    assert [parameter.grad is not None for parameter in parameters] == [True, False, True, False]
    with torch.no_grad():
        loss = a_loss(parameters)
        assert gradient_taken(loss, parameters) is loss
