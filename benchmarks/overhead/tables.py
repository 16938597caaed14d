"""The tables of `benchmark.py search`."""

from collections.abc import Mapping, Sequence

from benchmarks.overhead.sides_run import Figures

RATIOS = (("trainer-1", "ours-1"), ("trainer-2", "ours-2"))
SIDES = {
    "ours-1": "ours, 1 rank per trial",
    "ours-2": "ours, 2 ranks per trial",
    "trainer-1": "Tune, TorchTrainer per trial, 1 worker",
    "trainer-2": "Tune, TorchTrainer per trial, 2 workers",
    "tune": "Tune function trials, OptunaSearch",
    "optuna": "Optuna in one process",
}


def sides_table(found: Sequence[Figures]) -> str:
    """One line per side, and ratios of medians of the sides that are there."""
    lines = [
        f"{'':40}{'start s':>9}{'median s':>10}{'mean s':>9}{'processor s':>13}{'useful':>8}{'trials':>8}"
    ]
    lines.append("-" * len(lines[0]))
    for one in found:
        busy = "?" if one.processor is None else f"{one.processor:.2f}"
        useful = "-" if one.kind == "trivial" else f"{100 * one.useful:.0f} %"
        lines.append(
            f"{SIDES[one.side]:40}{one.start:>9.1f}{one.median:>10.3f}{one.mean:>9.3f}"
            f"{busy:>13}{useful:>8}{len(one.seconds):>8}"
        )
        if one.note:
            lines.append(f"    {one.note}")
    by_side = {one.side: one for one in found if one.seconds}
    for slow, quick in RATIOS:
        if slow in by_side and quick in by_side:
            ratio = by_side[slow].median / by_side[quick].median
            lines.append(f"median of {slow} / median of {quick}: {ratio:.1f}")
    lines.append(
        "one trial at a time; the first is the start and is not counted otherwise; processor: seconds per "
        "trial\nof all processes, by /proc four times a second; useful: share of the time in optimiser steps"
    )
    return "\n".join(lines)


def bookkeeping_table(found: Mapping[str, float]) -> str:
    """Seconds of bookkeeping per trial, and their share of the time."""
    edge = f"{found['edge']:.0f}"
    lines = [
        f"bookkeeping of {found['trials']:.0f} trials of simulated 5 s, the default space and sampler",
        f"{'':14}{'first ' + edge:>12}{'last ' + edge:>12}{'all':>9}{'last / first':>15}",
    ]
    for name, growth in (("seconds", "growth"), ("processor", "processor growth")):
        first, last, mean = (found[f"{name} {part}"] for part in ("first", "last", "mean"))
        title = "s per trial" if name == "seconds" else "processor s"
        lines.append(f"{title:14}{first:>12.3f}{last:>12.3f}{mean:>9.3f}{found[growth]:>15.2f}")
    lines.append(
        f"share of 5 s: {100 * found['share']:.1f} %; of the time simulated, which is shorter where "
        f"trials are stopped: {100 * found['share of trained']:.1f} %"
        f"\nof it for the status file and the live view: {100 * found['status share']:.0f} %"
    )
    return "\n".join(lines)


def resume_table(
    stored: int, size: float, seconds: Mapping[str, float], processor: Mapping[str, float]
) -> str:
    """The steps of the driver up to the first suggestion."""
    lines = [
        f"resume of {stored:,} stored trials, a journal of {size:.0f} MiB, to the first suggestion",
        f"{'':20}{'seconds':>10}{'processor s':>13}",
    ]
    for step, spent in seconds.items():
        busy = f"{processor[step]:.2f}" if step in processor else ""
        lines.append(f"{step:20}{spent:>10.2f}{busy:>13}")
    return "\n".join(lines)
