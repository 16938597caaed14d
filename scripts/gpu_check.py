"""Check a machine with a GPU: is the engine exact there, how fast is it, what makes it wait.

Needs Python 3.11 and torch 2.11 or newer, nothing else of this project's requirements.
"""

import argparse
import sys
from pathlib import Path

# The benchmarks lie beside the package and are not installed with it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu_check.command import INTERRUPTED, USAGE, check
from benchmarks.gpu_check.rows import STAGES, TIME_LIMIT

EXAMPLES = """examples:
  python scripts/gpu_check.py                         all stages
  python scripts/gpu_check.py --only checks steps
  python scripts/gpu_check.py --device cpu            a small version of each, without a GPU

The table goes into docs/BENCHMARKS.md."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    stages = "\n".join(
        f"  {stage.name:<18}{stage.about}, at most {stage.limit:.0f} s" for stage in STAGES
    )
    p = argparse.ArgumentParser(
        "gpu_check.py",
        description=f"{__doc__}\nstages, at most {TIME_LIMIT / 60:.0f} minutes on one card:\n{stages}",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = [stage.name for stage in STAGES]
    p.add_argument(
        "--only",
        nargs="+",
        choices=names,
        metavar="STAGE",
        default=(),
        help=f"of {', '.join(names)} (default: all)",
    )
    p.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="(default: %(default)s)"
    )
    p.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        default=Path("runs/gpu-check"),
        help="for gpu-check.json and gpu-check.md (default: %(default)s)",
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Parse, run, say where the figures are."""
    given = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(given)
    command = ["python", "scripts/gpu_check.py", *given]
    try:
        return check(arguments.device, arguments.only, arguments.output, command)
    except (ValueError, OSError) as error:
        print(f"gpu_check.py: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
