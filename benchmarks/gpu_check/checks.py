"""What must hold on a GPU, as plain functions: the tests marked `gpu` call them, and machines without pytest.

Each takes the device and raises AssertionError; on a processor it checks the same of the processor.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.derivatives.accuracy import errors_of, reference
from benchmarks.derivatives.cost import cost
from benchmarks.derivatives.methods import FORWARD, OURS, SECOND, autocast, products
from benchmarks.derivatives.networks import Batch, Subject
from benchmarks.derivatives.providers import Components
from benchmarks.gpu_check.rows import Bench, Row
from benchmarks.gpu_check.training import LOSSES, config_of, start
from meanflow_tune.core.jets import DropoutMasks, engine_of, velocity_jet
from meanflow_tune.core.random import GOLDEN, RowDraws
from meanflow_tune.losses import LossMix
from meanflow_tune.models import MLP, DiT, UNet

TINY = {
    "mlp": Subject(MLP(width=16, blocks=1), (3,), 8, "tiny"),
    "dit": Subject(DiT(width=16, depth=1, heads=2, patch=2), (1, 4, 4), 4, "tiny"),
    "unet": Subject(UNet(width=8, groups=4, heads=2), (1, 4, 4), 4, "tiny"),
}
WORDS = {"times": 10, "noise": 6}


def drawn(rows: Tensor, seed: int = 5) -> list[Tensor]:
    """One draw of every kind for `rows`."""
    draws = RowDraws(seed, rows, WORDS)
    return [draws.uniform("times"), draws.normal("noise", (3, 2, 1)), draws.spread("rows", GOLDEN)]


def draws_agree(device: str) -> None:
    """The device draws what the processor draws."""
    rows = torch.arange(64)
    for host, found in zip(drawn(rows), drawn(rows.to(device)), strict=True):
        torch.testing.assert_close(found.cpu(), host, rtol=1e-6, atol=1e-7)


def derivatives_are_exact(network: str, precision: str, compiled: bool, device: str) -> None:
    """All components of the engine against float64 on the processor."""
    subject = TINY[network]
    exact = reference(subject, Batch.make(subject, subject.batch, "cpu"), "cpu")
    batch, model = Batch.make(subject, subject.batch, device), subject.build(0, device)
    engine = engine_of(compiled, "float32")
    at = (model, batch.x, batch.t, batch.s)
    with torch.no_grad(), autocast(precision, device), products(precision):
        jet = engine.velocity_jet(*at, batch.velocity, label=batch.label)
        first = engine.directional_jet(*at, batch.velocity, 1.0, 0.0, label=batch.label)
    found: Components = {"u": jet.u, "d_s": jet.d_s, "d_t": jet.d_t, "d_t_d_s": jet.d_t_d_s}
    bound = 1e-4 if precision == "float32" else 0.2
    for components in (found, {"u": first.u, "d_t": first.derivative}):
        on_host = {name: value.cpu() for name, value in components.items()}
        errors = errors_of(on_host, exact)
        assert max(errors.values()) < bound, f"{errors}"


def dropout_is_shared(device: str) -> None:
    """The derivative pass of some rows has the masks of the plain pass."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 32), nn.Dropout(0.3), nn.Tanh(), nn.Linear(32, 2)).to(
        device
    )
    x = torch.linspace(-1, 1, 16, device=device).reshape(8, 2)
    t, s = torch.zeros(8, device=device), torch.ones(8, device=device)
    rows = torch.tensor([1, 4, 6], device=device)

    def network(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        out: Tensor = layers(x) * (s - t)[:, None]
        return out

    masks = DropoutMasks(seed=5, batch=8)
    with masks.of(), torch.no_grad():
        u = network(x, t, s)
    with masks.of(rows), torch.no_grad():
        jet = velocity_jet(network, x[rows], t[rows], s[rows], x[rows])
    torch.testing.assert_close(jet.u, u[rows], rtol=1e-5, atol=1e-5)


def methods_are_measured(precision: str, device: str) -> None:
    """The benchmark of derivatives runs, ours are exact in it, and its memory is counted."""
    found = cost(
        "dit",
        TINY["dit"],
        device=device,
        precision=precision,
        size=TINY["dit"].batch,
        repetitions=2,
        compiled=False,
        progress=lambda line: None,
    )
    rows = {row.name: row for row in found.rows}
    assert rows[OURS].units is not None
    worst = max(rows[OURS].errors.values())
    assert worst < (1e-4 if precision == "float32" else 0.2), f"error {worst:.1e}"
    step, forward = rows[SECOND].peak_mib, rows[FORWARD].peak_mib
    assert step is not None
    assert forward is not None
    assert step > forward > 0, f"peak memory of a step {step}, of a forward {forward} MiB"


def training_agrees(kind: str, device: str) -> None:
    """Five steps give the losses of the processor."""
    losses = [_losses(LOSSES[kind], where) for where in ("cpu", device)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)


def resume_is_bitwise(device: str) -> None:
    """Three steps, a stored state and three more are six steps, to the last bit."""
    whole = start(config_of(TINY["mlp"], LOSSES["second-order"], 16), TINY["mlp"], device)
    for _ in range(3):
        whole.advance(whole.objective)
    state = whole.snapshot()
    other = start(config_of(TINY["mlp"], LOSSES["second-order"], 16), TINY["mlp"], device)
    other.load_state_dict(state)
    for run in (whole, other):
        for _ in range(3):
            run.advance(run.objective)
    for name, value in whole.averaged_state().items():
        assert torch.equal(value, other.averaged_state()[name]), f"{name} differs after a resume"
    mine, theirs = (list(run.objective.parameters()) for run in (whole, other))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), "weights differ"


def _losses(losses: LossMix, device: str) -> Tensor:
    run = start(config_of(TINY["mlp"], losses, 16), TINY["mlp"], device)
    with products("float32"):
        return torch.stack([run.advance(run.objective).loss.detach().cpu() for _ in range(5)])


def cases() -> dict[str, Callable[[str], None]]:
    """All checks by name."""
    found: dict[str, Callable[[str], None]] = {"draws agree with the processor's": draws_agree}
    for network in TINY:
        for precision in ("float32", "bfloat16"):
            found[f"derivatives are exact, {network}, {precision}"] = partial(
                derivatives_are_exact, network, precision, False
            )
    found["derivatives are exact, mlp, float32, compiled"] = partial(
        derivatives_are_exact, "mlp", "float32", True
    )
    found["dropout is shared by the passes of a step"] = dropout_is_shared
    for precision in ("float32", "bfloat16"):
        found[f"every method is measured, {precision}"] = partial(methods_are_measured, precision)
    for kind in LOSSES:
        found[f"{kind} steps agree with the processor's"] = partial(training_agrees, kind)
    found["a resume is bitwise"] = resume_is_bitwise
    return found


def checks(bench: Bench) -> None:
    """Run all; those that fail do not stop the others."""
    for name, check in cases().items():
        bench.progress(name)
        bench.attempt(Row(name), partial(_one, name, check, bench))


def _one(name: str, check: Callable[[str], None], bench: Bench) -> None:
    check(bench.device)
    bench.emit(Row(name, note="holds"))
