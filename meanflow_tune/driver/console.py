"""The installed command `meanflow-tune`, whose subcommands are the scripts."""

import argparse
import sys

from meanflow_tune import __version__
from meanflow_tune.driver import (
    report_command,
    sample_command,
    train_command,
    tune_command,
)
from meanflow_tune.driver.cli import make_parser
from meanflow_tune.driver.doctor import doctor_command

PROG = "meanflow-tune"
COMMANDS = {
    "tune": "search hyper-parameters",
    "train": "train one configuration, such as the best.json of a search",
    "sample": "draw samples from a trained student",
    "report": "write the report of a study, or compare several",
    "doctor": "check what a search needs, on all hosts of a cluster",
}
DESCRIPTION = """Search hyper-parameters of second-order MeanFlow training, train one configuration, and
sample from what was trained, report on it, and check a cluster."""
EXAMPLES = """examples:
  meanflow-tune tune --smoke-test
  meanflow-tune train --config runs/second_order/best.json --output runs/best
  meanflow-tune sample runs/second_order/best.json --out samples.png
  meanflow-tune report --study second_order
  meanflow-tune sample --help                  options, examples and exit statuses of a command

exit status: that of the command; 2 bad usage"""


def console_parser() -> argparse.ArgumentParser:
    """The command line up to the command's own arguments."""
    p = make_parser(PROG, DESCRIPTION, EXAMPLES)
    p.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what, add_help=False)
    return p


def main(argv: list[str] | None = None) -> None:
    """The entry point: runs the command as this process and exits with its status."""
    given = sys.argv[1:] if argv is None else argv
    if not given or given[0] not in COMMANDS:
        console_parser().parse_args(given)
        raise AssertionError("argparse refuses what is no command")
    name, words = given[0], given[1:]
    prog = f"{PROG} {name}"
    if name == "tune":
        tune_command.run_process(words, prog)
    if name == "train":
        train_command.run_process(words, prog)
    if name == "report":
        report_command.run_process(words, prog)
    if name == "doctor":
        doctor_command.run_process(words, prog)
    sample_command.run_process(words, prog)
