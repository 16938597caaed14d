"""docs/derivatives.md works as written: its code with `core/jets` alone, and its list of operators."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from benchmarks.derivatives import tables
from benchmarks.derivatives.options import TABLES
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "derivatives.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)

# Before the page's code: only the copied files are importable. After it: its results are right.
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
    core = folder / "meanflow_tune" / "core"
    shutil.copytree(ROOT / "meanflow_tune" / "core" / "jets", core / "jets")
    (core.parent / "__init__.py").touch()
    shutil.copy(ROOT / "meanflow_tune" / "core" / "types.py", core)
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


def test_code_of_the_page_runs_in_order_with_the_copied_files_alone(printed: list[str]) -> None:
    assert len(BLOCKS) == 6
    assert printed[1] == " ".join(["torch.Size([16, 2])"] * 4)
    found = dict(line.split(": ") for line in printed[2:4])
    assert float(found["after"]) < 0.25 * float(found["before"])


def test_list_of_operators_is_that_of_the_engine(printed: list[str]) -> None:
    """Of a fresh process, because other tests register rules, as the page itself does."""
    assert "special_erfcx" not in printed[0], "choose another operator without a rule for the page"
    assert tables.operators_table(json.loads(printed[0])) in PAGE.read_text(), (
        "run: python scripts/benchmark.py derivatives --tables operators --page docs/derivatives.md"
    )


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("cost", "peer")])
def test_every_table_was_printed_by_the_command(name: str) -> None:
    text = PAGE.read_text()
    tables.check_page(PAGE, [name])
    block = text[text.index(f"<!-- table: {name} -->") :]
    assert block.splitlines()[1] == "```text"
    if name != "operators":
        assert "$ python scripts/benchmark.py derivatives" in block.splitlines()[3]
