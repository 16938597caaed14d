"""A new member of a family is one file and one line, and its contract suite tests it unasked."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.paths import ROOT


@dataclass(frozen=True)
class Added:
    """A member: its class, its module's code, and what is added to which file of the family."""

    family: str
    name: str
    code: str
    lines: dict[str, str]  # before which line -> the new one
    file: str = "__init__.py"
    suite: str = ""  # test_<suite>.py, where it is not that of the family's name


WEIGHTING = """
from typing import Literal
from torch import Generator, Tensor
from meanflow_tune.weightings.base import WeightingModule, WeightingSettings

class Squared(WeightingSettings):
    kind: Literal["squared"] = "squared"
    factor: float = 2.0

    def build(self, generator: Generator) -> WeightingModule:
        return SquaredError(self.factor)

class SquaredError(WeightingModule):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, residual: Tensor, mean_square: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.factor * mean_square
"""
POWER = """
from typing import Literal
from pydantic import Field
from torch import Tensor
from meanflow_tune.time_samplers.base import BASE

class NAME(BASE):
    kind: Literal["power"] = "power"
    power: float = Field(0.7, gt=0.0, le=10.0)

    def quantile(self, q: Tensor) -> Tensor:
        return q**self.power

    def cdf(self, x: Tensor) -> Tensor:
        return x.double() ** (1.0 / self.power)
"""
TIME_SAMPLER = POWER.replace("BASE", "SortedPairs").replace("NAME", "PowerPairs")
SINGLE_TIME = POWER.replace("BASE", "SingleTime").replace("NAME", "Power")
DS_SCHEDULE = """
from typing import Literal
from meanflow_tune.ds_schedules.base import ProgressSchedule, Ratio

class Quadratic(ProgressSchedule):
    kind: Literal["quadratic"] = "quadratic"
    start: Ratio = 0.5
    end: Ratio = 0.01

    def at(self, progress: float) -> float:
        return self.start + progress**2 * (self.end - self.start)
"""
MODEL = """
import math
from typing import Literal
from torch import Generator, Tensor, nn
from meanflow_tune.models.base import Conditioning, NetworkSettings, linear

class Shallow(NetworkSettings):
    kind: Literal["shallow"] = "shallow"
    width: int = 16

    def build(self, shape: tuple[int, ...], classes: int | None, generator: Generator) -> nn.Module:
        return ShallowNetwork(math.prod(shape), self.width, classes, generator)

class ShallowNetwork(nn.Module):
    def __init__(self, size: int, width: int, classes: int | None, generator: Generator) -> None:
        super().__init__()
        self.condition = Conditioning(8, 4.0, width, classes, generator)
        self.first = linear(size, width, generator)
        self.last = linear(width, size, generator, gain=0.2)

    def forward(self, x: Tensor, t: Tensor, s: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.first(x.flatten(1)) + self.condition(t, s, label)
        return self.last(nn.functional.silu(h)).reshape(x.shape)
"""
DATA = """
from typing import Literal
import torch
from meanflow_tune.core.types import DataSplit
from meanflow_tune.data.base import DataSettings, make_split

class Blob(DataSettings):
    kind: Literal["blob"] = "blob"
    std: float = 0.5
    seed: int = 0

    def load(self) -> DataSplit:
        generator = torch.Generator().manual_seed(self.seed)
        x = self.std * torch.randn(40, 2, generator=generator)
        return make_split(x[:30], None, x[30:], None, classes=None)
"""
METRIC = """
from typing import Literal
from torch import Tensor
from meanflow_tune.metrics.base import MetricSettings, Reference, rows

class EnergyGap(MetricSettings):
    kind: Literal["energy_gap"] = "energy_gap"
    factor: float = 1.0

    def _value(self, samples: Tensor, reference: Reference) -> float:
        energies = [rows(x).square().mean() for x in (samples, reference.held_out)]
        return self.factor * float((energies[0] - energies[1]).abs())
"""
LOSS = """
from typing import Literal
from meanflow_tune.losses.identity import Coefficients, JetIdentity

class Balanced(JetIdentity):
    kind: Literal["balanced"] = "balanced"

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(v_t=0.5, v_s=0.5, d_t=0.5, d_s=-0.5)
"""


def imported(family: str, name: str, kinds: str, code: str) -> Added:
    line = f"from meanflow_tune.{family}.added import {name} as {name}"
    return Added(family, name, code, {f"{kinds} = ": line})


ADDED = (
    imported("ds_schedules", "Quadratic", "DS_SCHEDULE_KINDS", DS_SCHEDULE),
    imported("weightings", "Squared", "WEIGHTING_KINDS", WEIGHTING),
    imported("time_samplers", "PowerPairs", "TIME_SAMPLER_KINDS", TIME_SAMPLER),
    Added(
        "time_samplers",
        "Power",
        SINGLE_TIME,
        {"SINGLE_TIME_KINDS = ": "from meanflow_tune.time_samplers.added import Power as Power"},
        suite="single_times",
    ),
    imported("models", "Shallow", "MODEL_KINDS", MODEL),
    imported("data", "Blob", "DATA_KINDS", DATA),
    imported("metrics", "EnergyGap", "METRIC_KINDS", METRIC),
    # The line is a field, which the type checker must know by its class: it brings an import.
    Added(
        "losses",
        "Balanced",
        LOSS,
        {
            "from meanflow_tune.settings": "from meanflow_tune.losses.added import Balanced",
            "    @classmethod": "    balanced: Balanced | None = None",
        },
        "mix.py",
    ),
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contract suites in a folder of their own."""
    skipped = shutil.ignore_patterns("__pycache__", Path(__file__).name)
    for folder in ("meanflow_tune", "tests/contracts", "tests/support"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


# Each starts a process that imports torch: the quick tests have one of them.
@pytest.mark.parametrize(
    "added",
    [
        pytest.param(a, id=a.suite or a.family, marks=[pytest.mark.slow] * (a is not ADDED[0]))
        for a in ADDED
    ],
)
def test_a_new_member_is_tested_because_it_is_there(added: Added, copy: Path) -> None:
    family = copy / "meanflow_tune" / added.family
    (family / "added.py").write_text(added.code)
    text = (family / added.file).read_text()
    for before, line in added.lines.items():
        assert text.count(f"\n{before}") == 1
        text = text.replace(f"\n{before}", f"\n{line}\n{before}")
    (family / added.file).write_text(text)
    suite = f"tests/contracts/test_{added.suite or added.family}.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", suite, "-k", added.name, "--junitxml=results.xml"],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    cases = list(ElementTree.parse(copy / "results.xml").iter("testcase"))
    assert all(added.name in case.attrib["name"] and len(case) == 0 for case in cases)
    assert len({case.attrib["name"].partition("[")[0] for case in cases}) >= 4
