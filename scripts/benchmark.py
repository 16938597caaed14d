"""Measure: both sides of a comparison in one run, with the machine and the command."""

import argparse
import sys
from pathlib import Path

# The benchmarks lie beside the package and are not installed with it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.derivatives import options as derivatives
from benchmarks.overhead import command as overhead
from benchmarks.replay import options as replay
from meanflow_tune.driver.cli import make_parser, whole
from meanflow_tune.plan.request import EXIT_INTERRUPTED, EXIT_USAGE, UserError
from meanflow_tune.training.process.freed_memory import keep_freed_memory

EXAMPLES = """examples:
  python scripts/benchmark.py slots                 two slots of one rank against one slot of two
  python scripts/benchmark.py slots --trials 6 --images 76800
  python scripts/benchmark.py search                overhead per trial, ours and others
  python scripts/benchmark.py search --bookkeeping --resume
  python scripts/benchmark.py search --slots        more and more simulated slots, until one saturates
  python scripts/benchmark.py derivatives           cost and error of exact derivatives
  python scripts/benchmark.py derivatives --networks dit unet --tables cost --no-compile
  python scripts/benchmark.py derivatives --device cuda --precision bfloat16 --json h100.json
  python scripts/benchmark.py derivatives --tables precision differences operators \\
      --page docs/derivatives.md                    the tables of that page, written into it
  python scripts/benchmark.py replay --study runs/toy      searches on a finished study, in minutes
  python scripts/benchmark.py replay --study runs/toy --sampler random --reduction 3 --no-promotion
  python scripts/benchmark.py replay --study runs/toy --table surrogate --plot replay.png

The figures of docs/BENCHMARKS.md were printed by these commands."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = make_parser("benchmark.py", __doc__, EXAMPLES)
    commands = p.add_subparsers(dest="command", required=True)

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=what,
            description=f"Measure {what}.",
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    slots = command("slots", "which layout of 2 processors serves trials faster")
    slots.add_argument(
        "--trials", type=whole(1), default=4, metavar="N", help="(default: %(default)s)"
    )
    slots.add_argument(
        "--images",
        type=whole(1),
        default=38_400,
        metavar="N",
        help="per trial (default: %(default)s)",
    )
    slots.add_argument(
        "--cache", type=Path, metavar="DIR", help="cache of teachers, such as runs/teachers"
    )
    overhead.add_arguments(
        command("search", "what a search costs besides training, ours and others")
    )
    derivatives.add(command("derivatives", "time, memory and error of the derivatives of losses"))
    replay.add(
        command("replay", "any sampler and scheduler on a finished study, in simulated time")
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print."""
    given = sys.argv[1:] if argv is None else argv
    arguments = vars(parser().parse_args(given))
    name = arguments.pop("command")
    keep_freed_memory()  # as slots and train.py do
    command = ["python", "scripts/benchmark.py", *given]
    try:
        if name == "slots":
            from benchmarks.overhead.slots import slots

            return slots(**arguments)
        if name == "search":
            return overhead.search(**arguments, command=command)
        if name == "replay":
            from benchmarks.replay.command import run

            return run(arguments, command)
        from benchmarks.derivatives.command import derivatives as measure

        return measure(**arguments, command=command)
    except (UserError, ValueError, OSError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\nbenchmark.py: interrupted; nothing was kept", file=sys.stderr)
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
