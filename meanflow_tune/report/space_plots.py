"""Plots of a space in the terminal: distributions of (t, s), schedules of ds, and ramps of shares."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from meanflow_tune.config import TrialConfig
from meanflow_tune.core.random import make_generator
from meanflow_tune.ds_schedules import DsScheduleSettings
from meanflow_tune.losses import LossMix
from meanflow_tune.report.text import headed, short
from meanflow_tune.report.textplot import density, histogram, sparkline
from meanflow_tune.settings import Member, Settings
from meanflow_tune.time_samplers import DRAWS, TimeSamplerSettings

SAMPLES = 20_000
GAPS = (0.1, 0.5, 1.0)
SMALLEST = 1e-3  # of ρ, at the foot of a column
DENSITY_ROWS = 8

UNSHOWN = {"kind", "diagonal_share", "diagonal_at", "diagonal", "temperature", "smallest"}

Plotted = TypeVar("Plotted", TimeSamplerSettings, DsScheduleSettings)


def show_plots(console: Console, configs: Sequence[TrialConfig]) -> None:
    """One example of each family that the configurations draw from, and the ramps of their shares."""
    width = min(console.width, 110)
    samplers = _first_of_each(config.time_sampler for config in configs)
    console.print()
    console.print(headed("Times (t, s)", ": t to the right, s upwards, without the share t = s"))
    for sampler in samplers:
        console.print(Padding(_times(sampler, width), (0, 0, 1, 2)))
    schedules = _first_of_each(c.ds_schedule for c in configs if c.ds_schedule is not None)
    if schedules:
        console.print(
            headed(
                "Schedules",
                f" of ρ = ds / (s - t) over progress, from {SMALLEST:g} to 1, logarithmic",
            )
        )
        console.print(Padding(_schedules(schedules, width), (0, 0, 1, 2)))
    mixes = [config.losses for config in configs]
    ramped = [m for m in mixes if any(loss.ramp.length > 0.0 for loss in m.active.values())]
    if ramped:
        console.print(headed("Shares", " that ramp, over progress, each on its own scale"))
        console.print(Padding(_ramps(ramped[:3], width), (0, 0, 1, 2)))


def _first_of_each(members: Iterable[Plotted]) -> list[Plotted]:
    """One member per kind, in the order of appearance."""
    found: dict[str, Plotted] = {}
    for member in members:
        found.setdefault(member.kind, member)
    return list(found.values())


def _numbers(member: Settings) -> str:
    """The settings but those in UNSHOWN: `start uniform  end logit_normal (mean 0.4  std 1)`."""
    return "  ".join(
        f"{name} {_named(value) if isinstance(value, Member) else short(value, 3)}"
        for name, value in member
        if name not in UNSHOWN
    )


def _named(member: Member) -> str:
    numbers = _numbers(member)
    return f"{member.kind} ({numbers})" if numbers else member.kind


def _diagonal(sampler: TimeSamplerSettings, coincide: float) -> str:
    """`25 % with t = s, at the start`; coincide: the share of the other rows with t = s."""
    where = {"start": "at the start", "end": "at the end", "random": "at either end"}
    place = f"at {_named(sampler.diagonal)}" if sampler.diagonal else where[sampler.diagonal_at]
    also = f", and {100 * coincide:.0f} % of the others" if coincide >= 0.005 else ""
    return f"{100 * sampler.diagonal_share:.0f} % with t = s, {place}{also}"


def _times(sampler: TimeSamplerSettings, width: int) -> Table:
    uniform = torch.rand(SAMPLES, DRAWS, generator=make_generator(0, "plot"), dtype=torch.float64)
    pairs = sampler.pairs(uniform, torch.zeros(SAMPLES, dtype=torch.bool))
    t, s = pairs.t, pairs.s
    columns = 2 * DENSITY_ROWS
    bins = min(width - columns - 19, 56)
    square = "\n".join(f"│{row}│" for row in density(t.tolist(), s.tolist(), columns, DENSITY_ROWS))
    frame = f"┌{'─' * columns}┐\n{square}\n└{'─' * columns}┘"
    words = Text(sampler.kind, style="bold")
    words.append(f"  {_numbers(sampler)}\n", style="not bold")
    coincide = float((t == s).double().mean())
    words.append(f"{_diagonal(sampler, coincide)}\n\n", style="not bold dim")
    for name, values in (("t", t), ("s", s), ("s - t", s - t)):
        words.append(f"{name:>5} ", style="not bold")
        words.append(histogram(values.tolist(), bins), style="not bold cyan")
        words.append(f" {float(values.mean()):.2f}\n", style="not bold dim")
    words.append(f"{'':>5} 0{'1':>{bins - 1}} mean", style="not bold dim")
    table = Table.grid(padding=(0, 2))
    table.add_row(Text(frame, style="cyan"), words)
    return table


def _schedules(schedules: Sequence[DsScheduleSettings], width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    columns = max(16, min(40, width - 60))
    for schedule in schedules:
        by_gap = {gap: _ratios(schedule, gap, columns) for gap in GAPS}
        if len({tuple(values) for values in by_gap.values()}) == 1:
            by_gap = {1.0: by_gap[1.0]}
        for index, (gap, values) in enumerate(by_gap.items()):
            name = schedule.kind if index == 0 else ""
            which = f"s - t = {gap:g}" if len(by_gap) > 1 else _numbers(schedule)
            logs = [math.log(max(value, SMALLEST)) for value in values]
            line = sparkline(logs, low=math.log(SMALLEST), high=0.0)
            ends = f"{values[0]:.2g} → {values[-1]:.2g}"
            table.add_row(Text(name, style="bold"), Text(line, style="cyan"), ends, which)
    return table


def _ratios(schedule: DsScheduleSettings, gap: float, count: int) -> list[float]:
    at = torch.tensor([gap])
    return [float(schedule.ratio(index / (count - 1), at)) for index in range(count)]


def _ramps(mixes: Sequence[LossMix], width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    columns = max(16, min(40, width - 44))
    for mix in mixes:
        weights = [mix.weights(index / (columns - 1)) for index in range(columns)]
        for name in mix.active:
            values = [weight[name] for weight in weights]
            line = sparkline(values, low=min(0.0, *values), high=max(0.0, *values), floor=1)
            ends = f"{values[0]:.2g} → {values[-1]:.2g}"
            table.add_row(name, Text(line, style="cyan"), ends)
        if mix is not mixes[-1]:
            table.add_row("", "", "")
    return table
