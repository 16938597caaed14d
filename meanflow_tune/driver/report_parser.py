"""The command line of report.py. Imports nothing heavy: `--help` must be quick."""

import argparse
import os
from pathlib import Path

from meanflow_tune.driver.cli import make_parser, whole
from meanflow_tune.plan.request import STORAGE

REPORT_DESCRIPTION = """Write the report of a study: one HTML file with the answer, samples and charts.
It opens from disk, without a network. Reads the study only, also while its search runs."""
REPORT_EXAMPLES = """examples:
  python scripts/report.py                                    the only study in runs/, to its report.html
  python scripts/report.py --study second_order --watch       written again while the search runs
  python scripts/report.py --study first --study second --out both.html      compare, on the same latents
  python scripts/report.py --study second_order --figures figures            each chart as .png and .svg

exit status: 0 written; 2 bad usage, or no such study; 5 study not readable or output not writable;
130 interrupted: the last whole file stays"""


def report_parser(prog: str = "report.py") -> argparse.ArgumentParser:
    """The command line of report.py."""
    p = make_parser(prog, REPORT_DESCRIPTION, REPORT_EXAMPLES)
    p.add_argument(
        "--study",
        action="append",
        default=[],
        metavar="NAME",
        help="a study in DIR; given again: compare it with the first (default: the only one)",
    )
    p.add_argument(
        "--storage",
        type=Path,
        default=STORAGE,
        metavar="DIR",
        help="folder of studies and teachers (default: %(default)s)",
    )
    p.add_argument(
        "--study-storage",
        default=os.environ.get("OPTUNA_STORAGE"),
        metavar="URL",
        help="an Optuna database URL (default: OPTUNA_STORAGE, else what the study says)",
    )
    p.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page, .html (default: report.html in the folder of the first study)",
    )
    p.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="also write each chart and the samples for papers, as .png and .svg",
    )
    p.add_argument(
        "--watch",
        action="store_true",
        help="write the page again until the search ends or Ctrl-C; the page reloads itself meanwhile",
    )
    p.add_argument(
        "--every",
        type=whole(1),
        default=20,
        metavar="SECONDS",
        help="with --watch: seconds between two writes (default: %(default)s)",
    )
    return p
