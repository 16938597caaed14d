"""The peer of our first-order step: the same network, the same loss and gradient; no time is asserted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.derivatives import peer as module
from benchmarks.derivatives.accuracy import errors_of
from benchmarks.derivatives.peer import (
    OURS,
    PEER,
    PeerStep,
    Side,
    Size,
    loss_of_peer,
    peer,
    ratios_of,
    run_of,
)
from benchmarks.derivatives.providers import central_differences, func_first, ours_first
from benchmarks.derivatives.tables import peer_table
from scripts.benchmark import main

TINY = Size(8, (1, 2), 1, (1,), 8, 6)


def quiet(line: str) -> None: ...


def images() -> Tensor:
    return torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def gradient(net: nn.Module) -> list[Tensor]:
    found = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    return found


def test_both_sides_have_the_same_loss_and_gradient_on_one_batch() -> None:
    net = TINY.build("cpu")
    run = run_of(net, images(), 16, "float32", False)
    path = run.batch()
    assert 0 < int((path.gap == 0).sum()) < 16
    found = run.objective(path, 0.0).loss
    found.backward()
    ours = gradient(net)
    expected = loss_of_peer(net, path)
    expected.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours, gradient(net), strict=True):
        assert (one - other).abs().max() < 1e-4 * other.abs().max() + 1e-7


def test_the_network_is_exact_in_both_and_uses_both_times() -> None:
    net = TINY.build("cpu").double()
    x, v = torch.randn(2, 4, 3, 8, 8, dtype=torch.double)
    t, s = torch.rand(2, 4, dtype=torch.double).sort(0).values
    truth = central_differences(net, x, t, s, v, t.long())
    for provider in (ours_first, func_first):
        with torch.no_grad():
            errors = errors_of(provider(net, x, t, s, v, t.long()), truth)
        assert max(errors.values()) < 1e-6
    assert truth["d_s"].abs().max() > 1e-3
    assert not torch.allclose(truth["d_t"], truth["d_s"])


def test_steps_train_and_draw_by_the_recipe() -> None:
    step = PeerStep(TINY.build("cpu"), images(), 64, "float32", False)
    before = [p.clone() for p in step.net.parameters()]
    step()
    moved = [not torch.equal(a, b) for a, b in zip(before, step.net.parameters(), strict=True)]
    assert all(moved)
    averaged = list(step.average.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, averaged, strict=True))
    path = step.path()
    assert int((path.t == path.s).sum()) == 16
    assert bool((path.t <= path.s).all())
    with torch.no_grad():
        step.net.get_parameter("last.bias").fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="nan"):
        step()


def test_both_sides_are_measured_by_turns() -> None:
    found = peer(
        device="cpu",
        precision="float32",
        batch=None,
        repetitions=2,
        compiled=False,
        progress=quiet,
        size=TINY,
    )
    assert [side.name for side in found.sides] == [PEER, OURS]
    for side in found.sides:
        assert side.seconds is not None
        assert side.images_per_second == pytest.approx(6 / side.seconds[1])
        assert side.peak_mib is not None
    (ratio,) = found.ratios.values()
    rates = [side.images_per_second for side in found.sides]
    assert rates[0] is not None
    assert rates[1] is not None
    assert ratio == pytest.approx(rates[1] / rates[0])
    assert f"{ratio:.2f} (goal 1.4)" in peer_table(found, "wall time")


def test_a_side_that_does_not_run_is_in_the_table_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("no rule for this")

    monkeypatch.setattr(module, "PeerStep", fails)
    found = peer(
        device="cpu",
        precision="float32",
        batch=2,
        repetitions=1,
        compiled=False,
        progress=quiet,
        size=TINY,
    )
    assert found.ratios == {}
    assert found.sides[0] == Side(PEER, None, note="does not run: RuntimeError: no rule for this")
    assert "does not run: RuntimeError: no rule for this" in peer_table(found, "wall time")


def test_ratios_need_both_sides() -> None:
    sides = [Side(PEER, None), Side(OURS, (1.0, 1.0, 1.0), 6.0, 1.0)]
    sides += [
        Side(f"{n}, compiled", (1.0, 1.0, 1.0), r, 1.0) for n, r in ((PEER, 4.0), (OURS, 6.0))
    ]
    assert ratios_of(sides) == {"images per second, ours / torch.func.jvp, compiled": 1.5}


def test_the_command_prints_and_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.SIZES, "cpu", TINY)
    figures = tmp_path / "figures.json"
    given = ["derivatives", "--tables", "peer", "--repetitions", "1", "--no-compile"]
    assert main([*given, "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert "SongUNet, width 8 and 16" in printed
    stored = json.loads(figures.read_text())["peer"]
    assert [side["name"] for side in stored["sides"]] == [PEER, OURS]
