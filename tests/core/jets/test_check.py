"""The check of a first pass is made again for whatever can differ: network, instance, branch, mode."""

import functools
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from meanflow_tune.core.jets import check, velocity_jet
from meanflow_tune.core.jets.callable_key import unique_key

REFUSED = pytest.raises(RuntimeError, match="another value in the derivative pass")


class Net(nn.Module):
    """x · scale, plus 0.28 for a tensor only, which a jet is not, where `wrong` says so."""

    def __init__(self, wrong: Callable[..., bool] = lambda net, x, label: False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.wrong = wrong

    def forward(self, x: Any, t: Any, s: Any, label: Tensor | None = None) -> Any:
        u = x * self.scale
        return u + 0.28 if self.wrong(self, x, label) and isinstance(x, Tensor) else u


def always(net: Net, x: Any, label: Any) -> bool:
    return True


class Trainer:
    """Holds a network that its method calls."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def u(self, x: Any, t: Any, s: Any, label: Tensor | None = None) -> Any:
        return self.net(x, t, s, label=label)


class Slotted:
    __slots__ = ("net",)

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Any, t: Any, s: Any) -> Any:
        return self.net(x, t, s)


def call(model: Callable[..., Any], *shape: int, dtype: Any = torch.float32, **named: Any) -> None:
    x = torch.ones(shape or (3, 2), dtype=dtype)
    t = torch.full((len(x),), 0.2, dtype=dtype)
    velocity_jet(model, x, t, t + 0.5, torch.ones_like(x), **named)


def behind_a_lambda(net: nn.Module) -> Callable[..., Any]:
    return lambda x, t, s, **named: net(x, t, s, **named)


def behind_a_default(net: nn.Module) -> Callable[..., Any]:
    return lambda x, t, s, net=net: net(x, t, s)


def behind_two_functions(net: nn.Module) -> Callable[..., Any]:
    inner = behind_a_lambda(net)

    def outer(x: Any, t: Any, s: Any) -> Any:
        return inner(x, t, s)

    return outer


def behind_a_list(net: nn.Module) -> Callable[..., Any]:
    nets = {"all": [net]}
    return lambda x, t, s: nets["all"][0](x, t, s)


def _first(net: nn.Module, x: Any, t: Any, s: Any) -> Any:
    return net(x, t, s)


current: Any = None


def of_the_module(x: Any, t: Any, s: Any) -> Any:
    return next(current(each, t, s) for each in (x,))


def behind_a_global(net: nn.Module) -> Callable[..., Any]:
    globals()["current"] = net
    return of_the_module


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        behind_a_lambda,
        behind_a_default,
        behind_two_functions,
        behind_a_global,
        lambda net: functools.partial(_first, net),
        lambda net: functools.partial(Trainer(net).u, label=None),
        lambda net: Trainer(net).u,
        lambda net: net.forward,
        lambda net: Slotted(net),
        behind_a_list,
        lambda net: nn.Sequential(net)[0],
    ],
)
def test_a_second_network_is_checked(wrap: Callable[[nn.Module], Any]) -> None:
    right, wrong = Net(), Net(always)
    call(wrap(right))
    call(wrap(right))
    for _ in range(2):
        with REFUSED:
            call(wrap(wrong))


def test_a_network_that_replaces_another_is_checked() -> None:
    trainer = Trainer(Net())
    call(trainer.u)
    trainer.net = Net(always)
    with REFUSED:
        call(trainer.u)


def with_label(net: Net, x: Any, label: Any) -> bool:
    return label is not None


@pytest.mark.parametrize("wrap", [lambda net: net, behind_a_lambda])
def test_a_branch_taken_later_is_checked(wrap: Callable[[nn.Module], Any]) -> None:
    labels = torch.zeros(3, dtype=torch.long)
    call(wrap(net := Net(with_label)), label=None)
    with REFUSED:
        call(wrap(net), label=labels)
    call(wrap(net := Net(lambda net, x, label: x.shape[1:] == (4, 4))))
    with REFUSED:
        call(wrap(net), 3, 4, 4)
    call(wrap(net := Net(lambda net, x, label: len(x) == 1)))
    with REFUSED:
        call(wrap(net), 1, 2)
    call(wrap(net := Net(lambda net, x, label: net.training).eval()))
    net.train()
    with REFUSED:
        call(wrap(net))
    call(wrap(net := Net(lambda net, x, label: x.dtype == torch.float64)))
    with REFUSED:
        call(wrap(net), dtype=torch.float64)
    call(wrap(net := Net(lambda net, x, label: not torch.is_grad_enabled())))
    with torch.no_grad(), REFUSED:
        call(wrap(net))
    net = Net(lambda net, x, label: torch.is_grad_enabled())
    with torch.no_grad():
        call(wrap(net))
    with REFUSED:
        call(wrap(net))
    call(wrap(net := Net(lambda net, x, label: torch.is_autocast_enabled("cpu"))))
    with torch.autocast("cpu", torch.bfloat16), REFUSED:
        call(wrap(net))


def test_a_part_in_another_mode_is_checked() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net(lambda net, x, label: net.training).eval()

        def forward(self, x: Any, t: Any, s: Any) -> Any:
            return self.inner(x, t, s)

    outer = Outer()
    call(outer)
    outer.inner.train()
    with REFUSED:
        call(outer)


@pytest.mark.parametrize(("before", "after"), [(False, True), ("plain", "other")])
def test_a_flag_that_is_switched_later_is_checked(before: Any, after: Any) -> None:
    net = Net(lambda net, x, label: net.flag == after)
    net.flag = before
    call(net)
    net.flag = after
    with REFUSED:
        call(net)


@pytest.mark.parametrize("wrap", [lambda net: net, behind_a_lambda, lambda net: Trainer(net).u])
def test_the_place_of_a_dead_network_is_checked(wrap: Callable[[nn.Module], Any]) -> None:
    """Python gives the address of a dead object to a new one."""
    before = len(check._CHECKED)
    for _ in range(30):
        call(wrap(Net()))
    gc.collect()
    assert len(check._CHECKED) <= before, "nothing is kept of what died"
    for _ in range(30):
        with REFUSED:
            call(wrap(Net(always)))


def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    real = check.FirstPass.check
    monkeypatch.setattr(
        check.FirstPass, "check", lambda self, *args: made.append(1) or real(self, *args)
    )
    return made


def test_a_step_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lambda made anew at each step, other labels and another number of rows are the same way."""
    made, net = count(monkeypatch), Net()
    trainer, log = Trainer(net), []

    def logged(x: Any, t: Any, s: Any) -> Any:
        log.append((float(len(log)), type(x)))
        return net(x, t, s)

    for rows in range(2, 8):
        label = torch.arange(rows)
        call(logged, rows, 2)
        call(net, rows, 2, label=label)
        call(lambda x, t, s, label=label: net(x, t, s, label=label), rows, 2)
        call(trainer.u, rows, 2)
        call(functools.partial(net, label=label), rows, 2)
    assert len(made) == 5


def test_a_check_changes_no_buffer() -> None:
    """A resumed run has one check more: it must not be another run for that."""

    class Running(nn.Module):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(2))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Any, t: Any, s: Any, label: None = None) -> Any:
            u = x - self.mean
            if isinstance(x, Tensor):
                self.mean = self.mean + 1.0
                self.calls += 1
            return u

    for wrap in (lambda net: net, behind_a_lambda, lambda net: Trainer(net).u):
        net = Running()
        mean = net.mean
        call(wrap(net))
        assert net.mean is mean
        assert not mean.any()
        assert float(net.calls) == 0


def test_a_key_costs_microseconds() -> None:
    net = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), nn.SiLU()) for _ in range(60)])
    model = behind_a_lambda(net)
    times = []
    for _ in range(200):
        began = time.thread_time()
        unique_key(model, ())
        times.append(time.thread_time() - began)
    assert sorted(times)[len(times) // 4] < 2e-3, "a step of such a network takes 20 ms"
