"""Options of `benchmark.py replay`; those of the search are called as tune.py calls them."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from benchmarks.replay.arms import Arm, Scheduler
from benchmarks.replay.table import Cost
from meanflow_tune.search.samplers.factory import SamplerKind

OURS = "ours"
_SEARCH = (
    "sampler",
    "scheduler",
    "reduction",
    "grace",
    "brackets",
    "promotion",
    "protect",
    "startup_trials",
)


def add(p: argparse.ArgumentParser) -> None:
    """Add them to the command's parser."""
    p.add_argument(
        "--study", type=Path, required=True, metavar="FOLDER", help="of a finished study, read only"
    )
    p.add_argument(
        "--space", metavar="NAME", help="a space or a .py file (default: the study's own)"
    )
    p.add_argument(
        "--table",
        choices=["rows", "surrogate"],
        default="rows",
        help="trials of the study only, or forests fitted to them (default: %(default)s)",
    )
    given = Arm(OURS)
    how = p.add_argument_group("the search that is compared, as in tune.py")
    how.add_argument("--sampler", choices=get_args(SamplerKind), default=given.sampler)
    how.add_argument("--scheduler", choices=get_args(Scheduler), default=given.scheduler)
    how.add_argument("--reduction", type=_above_one, default=given.reduction, metavar="F")
    how.add_argument("--grace", type=_whole(0), default=given.grace, metavar="IMAGES")
    how.add_argument("--brackets", type=_whole(1), default=given.brackets, metavar="N")
    how.add_argument("--promotion", action=argparse.BooleanOptionalAction, default=given.promotion)
    how.add_argument("--protect", type=_share, default=given.protect, metavar="SHARE")
    how.add_argument("--startup-trials", type=_whole(1), default=given.startup_trials, metavar="N")
    much = p.add_argument_group("how much")
    much.add_argument(
        "--trials",
        type=_whole(1),
        metavar="N",
        help="the budget, in trials of random search (default: an eighth of the rows)",
    )
    much.add_argument(
        "--workers", type=_whole(1), default=2, metavar="N", help="simulated (default: %(default)s)"
    )
    much.add_argument(
        "--repetitions",
        type=_whole(2),
        default=50,
        metavar="N",
        help="searches of each kind (default: %(default)s)",
    )
    much.add_argument(
        "--cost",
        choices=get_args(Cost),
        default="seconds",
        help="what the budget is counted in: of processors or GPUs, as stored (default: %(default)s)",
    )
    much.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="begin every search with the study's baselines, as tune.py does",
    )
    much.add_argument("--seed", type=_whole(0), default=0, metavar="N")
    much.add_argument(
        "--jobs", type=_whole(1), default=2, metavar="N", help="processes (default: %(default)s)"
    )
    p.add_argument(
        "--json", dest="json_file", type=Path, metavar="FILE", help="write all figures there"
    )
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw regret against budget")


def run(arguments: dict[str, Any], command: Sequence[str]) -> int:
    """The command with its parsed options. Raises ValueError and OSError as `replay` does."""
    from benchmarks.replay.command import replay

    arm = Arm(OURS, **{name: arguments.pop(name) for name in _SEARCH})
    return replay(arm=arm, command=command, **arguments)


def _whole(least: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, but got {value}")
        return value

    return whole


def _above_one(text: str) -> float:
    value = float(text)
    if not value > 1.0:
        raise argparse.ArgumentTypeError(f"must be above 1, but got {value:g}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, but got {value:g}")
    return value
