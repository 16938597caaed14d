"""The whole state of a network: nothing is left out, and nothing loads wrongly in silence."""

import pytest
import torch
from torch import Generator, Tensor, nn

from meanflow_tune.core.module_state import (
    copy_buffers,
    hidden_buffers,
    load_whole_state,
    refuse_unstored,
    whole_state,
)


class Net(nn.Module):
    fixed: Tensor
    drawn: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = Generator().manual_seed(seed)
        self.register_buffer("fixed", torch.arange(3.0).expand(2, 3), persistent=False)
        self.register_buffer("drawn", torch.rand(3, generator=generator), persistent=False)
        self.norm = nn.BatchNorm1d(3)
        self.scale = 2.0


def test_hidden_buffers_that_a_rebuilt_network_lacks_are_stored() -> None:
    net, rebuilt = Net(0), Net(1)
    assert set(hidden_buffers(net)) == {"fixed", "drawn"}
    state = whole_state(net, hidden_buffers(rebuilt))
    assert state.keys() - net.state_dict().keys() == {"drawn"}
    load_whole_state(rebuilt, state)
    assert torch.equal(rebuilt.drawn, net.drawn)
    assert whole_state(net).keys() == {*net.state_dict(), "fixed", "drawn"}
    load_whole_state(Net(1), whole_state(net))  # "fixed" has one memory location twice


def test_a_buffer_made_in_a_call_is_not_stored() -> None:
    net, rebuilt = Net(0), Net(0)
    net.register_buffer("cache", torch.zeros(3), persistent=False)
    assert "cache" not in whole_state(net, hidden_buffers(rebuilt))
    copy_buffers(Net(0).norm, net.norm)


def test_a_state_that_does_not_fit_is_refused() -> None:
    net = Net(0)
    with pytest.raises(ValueError, match=r"buffer 'drawn' has shape \(3,\), but \(1,\) was stored"):
        load_whole_state(net, net.state_dict() | {"drawn": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_whole_state(net, net.state_dict() | {"other": torch.zeros(1)})
    other = Net(0)
    net.fixed = net.fixed.clone()
    other.drawn = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"buffer 'drawn' has changed its shape \(3,\) .*now \(1,\)"
    ):
        copy_buffers(net, other)


@pytest.mark.parametrize("value", [torch.ones(2), 3.0, [torch.ones(2)], {"a": (1, 2.0)}])
def test_numbers_outside_of_the_state_must_be_equal(value: object) -> None:
    net, other = Net(0), Net(1)
    refuse_unstored(net, other)
    net.norm.note = value  # type: ignore[assignment]
    other.norm.note = value  # type: ignore[assignment]
    refuse_unstored(net, other)
    other.norm.note = "another"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"attribute 'norm.note' differs"):
        refuse_unstored(net, other)
