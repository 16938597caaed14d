"""docs/derivatives.md is used as written: its code with `meanflow_tune.core` alone, its list of operators."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from meanflow_tune.benchmarks import tables
from meanflow_tune.benchmarks.derivatives import TABLES
from meanflow_tune.core.jets import velocity_jet

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "derivatives.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)

# What a reader without the rest of the project has, and that the code of the page gave right results.
BEFORE = """
import sys
try:
    import meanflow_tune.losses
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("the whole package is importable")
import json
from meanflow_tune.core.jets import supported_operators
print(json.dumps(supported_operators()))
"""
AFTER = """
assert not {"pydantic", "optuna", "ray", "mlflow"} & set(sys.modules)
x, t, s, v = at
z, r, end = x.clone(), 1 - s, 1 - t
inner = z * (1 + r[:, None]) + end[:, None] ** 2
slope = torch.cos(inner)
assert torch.allclose(jet.u, -torch.sin(inner))
assert torch.allclose(jet.d_s, slope * z)  # their derivative in r
along = -v * (1 + r[:, None]) + 2 * end[:, None]  # their velocity is -v
assert torch.allclose(jet.d_t, slope * along)  # their total derivative
assert torch.allclose(jet.d_t_d_s, torch.sin(inner) * along * z + slope * v)  # minus their mixed one
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The lines that the page's code prints, the first of which is the engine's table of rules."""
    folder = tmp_path_factory.mktemp("reader")
    package = folder / "meanflow_tune"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copytree(ROOT / "meanflow_tune" / "core", package / "core")
    script = folder / "page.py"
    script.write_text("\n".join([BEFORE, *BLOCKS, AFTER]))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_code_of_the_page_runs_in_order_with_core_alone(printed: list[str]) -> None:
    assert len(BLOCKS) == 5
    assert printed[1] == " ".join(["torch.Size([16, 2])"] * 4)
    found = dict(line.split(": ") for line in printed[2:4])
    assert float(found["after"]) < 0.25 * float(found["before"])


def test_list_of_operators_is_that_of_the_engine(printed: list[str]) -> None:
    """Of a fresh process, for other tests register rules of their own."""
    assert tables.operators_table(json.loads(printed[0])) in PAGE.read_text(), (
        "run: python scripts/benchmark.py derivatives --tables operators --page docs/derivatives.md"
    )


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_what_the_page_says_of_autograd_functions(grad: bool) -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return 2 * gradient * ctx.saved_tensors[0]

    def model(square: Any) -> Any:
        return lambda x, t, s: square(x * weight * s[:, None])

    weight = torch.nn.Parameter(torch.linspace(1, 2, 3))
    x, v = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    t, s = torch.full((4,), 0.2), torch.full((4,), 0.7)
    with torch.set_grad_enabled(grad):
        found = velocity_jet(model(Square.apply), x, t, s, v)
        expected = velocity_jet(model(lambda y: y * y), x, t, s, v)
    assert torch.allclose(found.d_t_d_s, expected.d_t_d_s)
    assert expected.u.requires_grad == grad
    assert not found.u.requires_grad, "gradients pass now: say so in docs/derivatives.md"


@pytest.mark.parametrize("name", [name for name in TABLES if name != "cost"])
def test_every_table_was_printed_by_the_command(name: str) -> None:
    text = PAGE.read_text()
    tables.check_page(PAGE, [name])
    block = text[text.index(f"<!-- table: {name} -->") :]
    assert block.splitlines()[1] == "```text"
    if name != "operators":
        assert "$ python scripts/benchmark.py derivatives" in block.splitlines()[3]
