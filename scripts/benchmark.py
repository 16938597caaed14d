"""Measure: both sides of a comparison in one run, with the machine and the command."""

import argparse
import sys
from pathlib import Path

# The benchmarks lie beside the package and are not installed with it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.replay import options
from meanflow_tune.driver.cli import make_parser

EXAMPLES = """examples:
  python scripts/benchmark.py slots                 two slots of one rank against one slot of two
  python scripts/benchmark.py slots --trials 6 --images 76800
  python scripts/benchmark.py search                overhead of a trial, ours and others
  python scripts/benchmark.py search --bookkeeping --resume
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
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    slots = command("slots", "which layout of 2 processors serves trials faster")
    slots.add_argument("--trials", type=int, default=4, metavar="N", help="(default: %(default)s)")
    slots.add_argument(
        "--images", type=int, default=38_400, metavar="N", help="a trial (default: %(default)s)"
    )
    slots.add_argument(
        "--cache", type=Path, metavar="DIR", help="cache of teachers, such as runs/teachers"
    )
    from benchmarks.overhead.command import add_arguments

    add_arguments(command("search", "what a search costs beside training, ours and others"))
    _derivatives(command("derivatives", "time, memory and error of the derivatives of losses"))
    options.add(
        command("replay", "any sampler and scheduler against a finished study, in simulated time")
    )
    return p


def _derivatives(p: argparse.ArgumentParser) -> None:
    from benchmarks.derivatives.command import TABLES
    from benchmarks.derivatives.methods import PRECISIONS
    from benchmarks.derivatives.networks import NETWORKS

    p.add_argument(
        "--tables", nargs="+", metavar="NAME", choices=TABLES, default=TABLES, help="(default: all)"
    )
    p.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        help="(default: all; dit-1024 and dit-b only on a GPU)",
    )
    p.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    p.add_argument("--threads", type=_positive, default=1, metavar="N", help="(default: 1)")
    p.add_argument(
        "--batch", type=_positive, metavar="N", help="samples a call (default: 16; mlp 128)"
    )
    p.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the costs")
    p.add_argument(
        "--repetitions", type=_positive, default=9, metavar="N", help="(default: %(default)s)"
    )
    p.add_argument(
        "--no-compile", dest="compiled", action="store_false", help="leave out torch.compile"
    )
    p.add_argument(
        "--json", dest="json_file", type=Path, metavar="FILE", help="write figures there too"
    )
    p.add_argument("--page", type=Path, metavar="FILE", help="replace the tables of this page")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but got {value}")
    return value


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print."""
    given = sys.argv[1:] if argv is None else argv
    arguments = vars(parser().parse_args(given))
    name = arguments.pop("command")
    command = ["python", "scripts/benchmark.py", *given]
    try:
        if name == "slots":
            from benchmarks.overhead.slots import slots

            return slots(**arguments)
        if name == "search":
            from benchmarks.overhead.command import search

            return search(**arguments, command=command)
        if name == "replay":
            return options.run(arguments, command)
        from benchmarks.derivatives.command import derivatives

        arguments["wanted"] = arguments.pop("tables")
        return derivatives(**arguments, command=command)
    except (ValueError, OSError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nbenchmark.py: interrupted; nothing was kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
