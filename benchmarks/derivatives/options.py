"""Options of `benchmark.py derivatives`. Imports nothing heavy: `--help` must be quick."""

import argparse
from pathlib import Path

TABLES = ("cost", "precision", "differences", "operators", "peer")
PRECISIONS = ("float32", "tf32", "bfloat16")
# Of NETWORKS.
NETWORK_NAMES = ("mlp", "dit", "dit-32", "dit-1024", "dit-b", "unet", "unet-32", "unet-cifar")
LARGE = ("dit-1024", "dit-b", "unet-cifar")


def add(p: argparse.ArgumentParser) -> None:
    """Add them to the command's parser."""
    from meanflow_tune.driver.cli import whole  # not where only the networks are asked for

    p.add_argument(
        "--tables",
        nargs="+",
        metavar="NAME",
        choices=TABLES,
        default=TABLES,
        dest="wanted",
        help=f"of {', '.join(TABLES)} (default: all)",
    )
    p.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORK_NAMES,
        help=f"(default: all; {', '.join(LARGE)} only on a GPU)",
    )
    p.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    p.add_argument("--threads", type=whole(1), default=1, metavar="N", help="(default: 1)")
    p.add_argument(
        "--batch",
        type=whole(1),
        metavar="N",
        help="samples per call (default: 16; mlp 128, unet-cifar 64)",
    )
    p.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="of the costs; tf32 on a GPU only (default: %(default)s)",
    )
    p.add_argument(
        "--repetitions", type=whole(1), default=9, metavar="N", help="(default: %(default)s)"
    )
    p.add_argument(
        "--no-compile", dest="compiled", action="store_false", help="leave out torch.compile"
    )
    p.add_argument(
        "--json", dest="json_file", type=Path, metavar="FILE", help="write the figures there too"
    )
    p.add_argument("--page", type=Path, metavar="FILE", help="replace the tables of this page")
