"""Tables and plot of a replay: regret against budget, and which search is ahead."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.derivatives.tables import grid
from benchmarks.replay.statistics import Comparison, Estimate

SHOWN = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Curves:
    """iqm: search -> estimates of its regret at `fractions`; against: search -> comparison with the
    reference at the end; started: search -> mean number of trials; trials: the budget."""

    title: str
    fractions: Sequence[float]
    iqm: Mapping[str, Sequence[Estimate]]
    against: Mapping[str, Comparison]
    started: Mapping[str, float]
    reference: str
    ours: str
    trials: int


def summary(curves: Curves, workers: int, repetitions: int) -> str:
    """The tables and the decision."""
    places = [curves.fractions.index(share) for share in SHOWN]
    shares = [f"{share:.0%}" for share in SHOWN]
    rows = [["regret of the best so far", *shares, "trials", "as good as random's end at"]]
    goal = curves.iqm[curves.reference][-1].value
    for name, estimates in curves.iqm.items():
        reached = [f for f, e in zip(curves.fractions, estimates, strict=True) if e.value <= goal]
        rows.append(
            [
                name,
                *(_interval(estimates[place]) for place in places),
                f"{curves.started[name]:.0f}",
                f"{reached[0]:.0%}" if reached else "-",
            ]
        )
    versus = [[f"minus {curves.reference}, at 100%", "mean", "IQM", "wins", ""]]
    for name, comparison in curves.against.items():
        versus.append(
            [
                name,
                _interval(comparison.mean, "+"),
                _interval(comparison.iqm, "+"),
                f"{comparison.wins:.0%}",
                comparison.decision,
            ]
        )
    ours = curves.against[curves.ours]
    decision = {
        "ahead": f"is ahead of {curves.reference} search",
        "behind": f"is behind {curves.reference} search",
        "cannot be told apart": f"cannot be told apart from {curves.reference} search",
    }[ours.decision]
    return "\n".join(
        [
            f"\nbudget {curves.trials} trials, {workers} simulated workers, {repetitions} repetitions; "
            "regret: 0 is the best final value, 1 the median",
            "interquartile mean, 95 % bootstrap interval over repetitions:",
            grid(rows),
            "",
            grid(versus),
            f"decision: {curves.ours} {decision} where it ends (difference of regret "
            f"{_interval(ours.mean, '+')}).",
            "The intervals are over repetitions on this one table, not over other problems.",
        ]
    )


def draw(curves: Curves, path: Path) -> None:
    """Draw anytime curves with their intervals, as a PNG or the format of the file's suffix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#555555", "#D55E00", "#CC79A7")
    for (name, estimates), colour in zip(curves.iqm.items(), colours, strict=False):
        known = [
            (f * curves.trials, e)
            for f, e in zip(curves.fractions, estimates, strict=True)
            if math.isfinite(e.high)
        ]
        x = [place for place, _ in known]
        dashed = "--" if name == curves.reference else "-"
        axes.plot(
            x,
            [e.value for _, e in known],
            color=colour,
            label=name,
            linewidth=1.8,
            linestyle=dashed,
        )
        axes.fill_between(
            x, [e.low for _, e in known], [e.high for _, e in known], color=colour, alpha=0.15, lw=0
        )
    axes.set_xlabel("budget, in trials of random search")
    axes.set_ylabel("regret (0: best, 1: median)")
    axes.set_title(curves.title, loc="left")
    axes.set_xlim(0, curves.trials)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def _interval(estimate: Estimate, sign: str = "") -> str:
    if not math.isfinite(estimate.value):
        return "-"
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"
