"""The benchmark of derivatives: its structure and its errors on tiny networks; no time is asserted."""

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.derivatives.accuracy import STEPS, difference_errors, errors_of, precision_errors
from benchmarks.derivatives.command import settled
from benchmarks.derivatives.cost import Cost, Row, cost, mark_wrong
from benchmarks.derivatives.methods import (
    FORWARD,
    NESTED,
    NESTED_STEP,
    OURS,
    SECOND,
    Calls,
    compile_provider,
)
from benchmarks.derivatives.networks import NETWORKS, Batch, Subject, default_networks
from benchmarks.derivatives.options import NETWORK_NAMES
from benchmarks.derivatives.providers import (
    COMPONENTS,
    Components,
    central_differences,
    first_way,
)
from benchmarks.timing import interleaved, peak_mib, processor_time, quartiles
from meanflow_tune.models import MLP, DiT, UNet
from scripts.benchmark import main
from tests.support.closed_form import flow_batch, gaussian_flow

TINY = {
    "mlp": Subject(MLP(width=16, blocks=1), (3,), 8, "tiny"),
    "dit": Subject(DiT(width=16, depth=1, heads=2, patch=2), (1, 4, 4), 4, "tiny"),
    "unet": Subject(UNet(width=8, groups=4, heads=2), (1, 4, 4), 4, "tiny"),
}


def quiet(line: str) -> None: ...


@cache
def measured(name: str) -> Cost:
    with settled(1):
        return cost(
            name,
            TINY[name],
            device="cpu",
            precision="float32",
            size=TINY[name].batch,
            repetitions=2,
            compiled=False,
            progress=quiet,
        )


@pytest.mark.parametrize("name", TINY)
def test_every_method_is_measured_and_ours_is_right(name: str) -> None:
    found = measured(name)
    rows = {row.name: row for row in found.rows}
    assert len(rows) == len(found.rows) == 16
    left_out = {n for n, row in rows.items() if row.units is None}
    assert left_out == {n for n in rows if "compiled" in n}
    assert all("--no-compile" in rows[n].note for n in left_out)
    for row in rows.values():
        if row.units is not None:
            low, middle, high = row.units
            assert 0 < low <= middle <= high < math.inf
            assert row.peak_mib is not None
            assert row.peak_mib > 0
    assert rows[FORWARD].units is not None
    assert rows[FORWARD].units[1] == 1.0
    for own, components in ((OURS, COMPONENTS), ("D u: ours", ("u", "d_t"))):
        assert set(rows[own].errors) == set(components)
        assert max(rows[own].errors.values()) < 1e-4
        assert not rows[own].wrong
    # A step holds the activations and the gradients of all parameters in addition to the derivatives.
    size = sum(p.numel() * 4 for p in TINY[name].build(0, "cpu").parameters()) / 2**20
    assert rows[SECOND].peak_mib > size  # type: ignore[operator]
    assert len(found.ratios) == 4  # of 5: the compiled ones are left out


def test_nested_jvp_is_called_wrong_through_layer_norm_and_right_through_group_norm() -> None:
    for name, wrong in (("dit", True), ("unet", False)):
        row, step = (
            next(row for row in measured(name).rows if row.name == n) for n in (NESTED, NESTED_STEP)
        )
        assert "silu_backward" in row.note
        assert "measured in grad mode with SDPBackend.MATH" in row.note
        assert row.wrong == wrong, "is layer_norm fixed? Then say so in docs/derivatives.md"
        assert step.wrong == wrong
        assert (row.errors["d_t_d_s"] > 1e-3) == wrong
        assert row.errors["d_t"] < 1e-4


def test_wrong_is_what_rounding_does_not_explain() -> None:
    ours = Row(OURS, errors={"u": 1e-7, "d_t_d_s": 1e-2})
    rows = [ours, Row("a", errors={"d_t_d_s": 0.1}), Row("b", errors={"d_t_d_s": 0.3}), Row("c")]
    rows.append(Row("d", errors={"u": math.inf}))
    assert [row.wrong for row in mark_wrong(rows)] == [False, False, True, False, True]


def test_what_does_not_compile_is_reported_not_hidden() -> None:
    def breaks(
        model: nn.Module, x: Tensor, t: Tensor, s: Tensor, v: Tensor, label: Tensor
    ) -> Components:
        torch._dynamo.graph_break()
        return {"u": x}

    found = compile_provider(breaks, Calls(TINY["mlp"], 2, "cpu", "float32"))
    assert found.provider is None
    assert found.note.startswith("not available: Unsupported")


def test_ways_of_torch_are_tried_in_turn() -> None:
    def needs_grad() -> None:
        if not torch.is_grad_enabled():
            raise NotImplementedError("no rule\nmore")

    way, refusals = first_way(needs_grad)
    assert str(way) == "in grad mode"
    assert refusals == "as called or with SDPBackend.MATH (NotImplementedError: no rule)"
    assert first_way(needs_grad, grad=True)[1] == ""

    def never() -> None:
        raise RuntimeError

    assert first_way(never)[0] is None


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
def test_precisions_are_in_order(name: str) -> None:
    double, single, half = precision_errors(name, TINY[name], "cpu", quiet)
    assert [row.precision for row in (double, single, half)] == ["float64", "float32", "bfloat16"]
    for component in COMPONENTS:
        assert double.errors[component] < 1e-6
        assert double.errors[component] < single.errors[component] < 1e-4
        assert single.errors[component] < half.errors[component] < 0.2


def test_differences_converge_at_order_one_until_rounding_takes_over() -> None:
    rows = difference_errors(TINY["unet"], "cpu", quiet)
    assert [row.step for row in rows] == list(STEPS)
    single = [row.errors["D u exact, float32"] for row in rows]
    assert 5 < single[0] / single[1] < 20
    assert single[-1] > single[2]
    assert min(row.errors["forwards only, bfloat16"] for row in rows) > 1e-2


def test_central_differences_against_a_closed_form() -> None:
    flow = gaussian_flow((2, 3))
    x, t, s = flow_batch(flow)
    label = torch.zeros(len(x), dtype=torch.long)
    found = central_differences(flow, x, t, s, flow.velocity(x, t), label)
    errors = errors_of(found, vars(flow.jet(x, t, s)))
    assert set(errors) == set(COMPONENTS)
    assert max(errors.values()) < 1e-8


def test_networks_share_their_numbers_between_precisions() -> None:
    single, double = (TINY["dit"].build(0, "cpu", d) for d in (torch.float32, torch.float64))
    for p, q in zip(single.parameters(), double.parameters(), strict=True):
        assert torch.equal(p.double(), q)
    batch = Batch.make(TINY["dit"], 64, "cpu")
    assert bool((batch.t < batch.s).all())
    assert float(batch.s.max()) <= 1.0
    assert "dit-b" in default_networks("cuda")
    assert tuple(NETWORKS) == NETWORK_NAMES
    assert set(NETWORKS) - set(default_networks("cpu")) == {"dit-b", "dit-1024", "unet-cifar"}


# --- measuring ------------------------------------------------------------------------------------


def test_peak_counts_what_is_held_at_once() -> None:
    def call() -> None:
        a = torch.zeros(2**18)  # 1 MiB
        b = a + 1  # 2 MiB
        del a
        c = b + 1  # 2 MiB, not 3
        del b, c

    assert 2.0 <= peak_mib(call, "cpu") < 2.01


def test_processor_time_is_for_one_thread_of_a_cpu() -> None:
    with settled(1):
        assert processor_time("cpu")
        assert not processor_time("cuda")
        assert measured("mlp").clock == "processor time"
    with settled(2):
        assert not processor_time("cpu")


def test_calls_take_turns() -> None:
    order: list[str] = []

    def call(name: str) -> None:
        order.append(name)
        torch.randn(600, 600) @ torch.randn(600, 600) @ torch.randn(600, 600)

    found = interleaved({n: lambda n=n: call(n) for n in "ab"}, 3, "cpu")  # type: ignore[misc]
    assert {n: len(v) for n, v in found.items()} == {"a": 3, "b": 3}
    rounds = "".join(order).lstrip("a").lstrip("b")  # after the warm-up of both
    assert [n for i, n in enumerate(rounds) if i == 0 or rounds[i - 1] != n] == list("ababab")
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


# --- the command ----------------------------------------------------------------------------------

SMALL = ["derivatives", "--networks", "mlp", "--batch", "2", "--repetitions", "1", "--no-compile"]


def test_command_prints_keeps_and_writes_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    begin, end = "<!-- table: {} -->", "<!-- end of table -->"
    page.write_text(
        f"before\n{begin.format('precision')}\nold\n{end}\nbetween\n{begin.format('cost')}\n{end}\n"
        f"after\n{begin.format('other')}\n{end}\n"
    )
    command = [*SMALL, "--tables", "cost", "precision", "--json", str(figures), "--page", str(page)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    heading = printed[: printed.index("\n\n")]
    assert f"torch {torch.__version__}" in heading
    assert "--networks mlp" in heading
    text = page.read_text()
    assert text.startswith(f"before\n{begin.format('precision')}\n```text\n{heading}")
    assert "old" not in text
    assert "between" in text
    assert text.endswith(f"{end}\nafter\n{begin.format('other')}\n{end}\n"), (
        "an empty place is one place"
    )
    for line in printed.splitlines():
        assert line in text
    data = json.loads(figures.read_text())
    assert len(data["cost"][0]["rows"]) == 16
    assert len(data["precision"]) == 3
    assert torch.get_num_threads() == threads


def test_command_refuses_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    for more, message in (
        (["--page", str(page)], "has no lines `<!-- table: cost -->`"),
        (["--page", str(tmp_path / "none.md")], "No such file"),
        (["--json", str(tmp_path / "none" / "x.json")], "there is no folder"),
    ):
        assert main([*SMALL, *more]) == 2
        output = capsys.readouterr()
        assert message in output.err
        assert output.out == ""
    with pytest.raises(SystemExit):
        main([*SMALL, "--threads", "0"])
    if not torch.cuda.is_available():
        assert main([*SMALL, "--device", "cuda"]) == 2
