"""Options of `benchmark.py replay`; those of the search are options of tune.py, with its defaults.

Imports nothing heavy: `--help` must be quick.
"""

import argparse
from pathlib import Path
from typing import Literal, get_args

from meanflow_tune.driver.cli import add_option, whole

Cost = Literal["seconds", "images"]
OURS = "ours"
# Fields of a SearchRequest, and of an Arm.
SEARCH = (
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
    how = p.add_argument_group("the search to compare, as in tune.py")
    for name in SEARCH:
        add_option(how, name)
    much = p.add_argument_group("how much")
    much.add_argument(
        "--trials",
        type=whole(1),
        metavar="N",
        help="the budget, in trials of random search (default: an eighth of the rows)",
    )
    much.add_argument(
        "--workers", type=whole(1), default=2, metavar="N", help="simulated (default: %(default)s)"
    )
    much.add_argument(
        "--repetitions",
        type=whole(2),
        default=50,
        metavar="N",
        help="searches of each kind (default: %(default)s)",
    )
    much.add_argument(
        "--cost",
        choices=get_args(Cost),
        default="seconds",
        help="unit of the budget; seconds are those of processors or GPUs, as stored "
        "(default: %(default)s)",
    )
    much.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="start every search with the study's baselines, as tune.py does (default: yes)",
    )
    much.add_argument(
        "--seed", type=whole(0), default=0, metavar="N", help="(default: %(default)s)"
    )
    much.add_argument(
        "--jobs", type=whole(1), default=2, metavar="N", help="processes (default: %(default)s)"
    )
    p.add_argument(
        "--json", dest="json_file", type=Path, metavar="FILE", help="write all figures there"
    )
    p.add_argument("--plot", type=Path, metavar="FILE", help="draw regret against budget")
