"""The command `benchmark.py derivatives`: measure, print, and keep what was printed."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.derivatives import tables
from benchmarks.derivatives.accuracy import difference_errors, precision_errors
from benchmarks.derivatives.cost import cost
from benchmarks.derivatives.methods import products
from benchmarks.derivatives.networks import NETWORKS, default_networks
from benchmarks.derivatives.peer import peer
from benchmarks.machine import machine
from benchmarks.timing import processor_time
from meanflow_tune.core.jets import supported_operators


@contextmanager
def settled(threads: int) -> Iterator[None]:
    """`threads` processor threads and full float32 products, and afterwards what was set before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with products("float32"):
            yield
    finally:
        torch.set_num_threads(before)


def derivatives(
    *,
    wanted: Sequence[str],
    networks: Sequence[str] | None,
    device: str,
    threads: int,
    batch: int | None,
    precision: str,
    repetitions: int,
    compiled: bool,
    json_file: Path | None,
    page: Path | None,
    command: Sequence[str],
) -> int:
    """Print each table of `wanted` (of `options.TABLES`) as it is ready, below the machine and the command.

    networks: names, None for the default ones of `device`; batch: of the costs, None for each
    network's own; json_file: where all figures go too; page: whose tables are replaced.
    Raises ValueError or OSError, before anything is measured, for what cannot be done.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: no GPU is visible; use --device cpu")
    if precision == "tf32" and device == "cpu":
        raise ValueError("--precision tf32: processors have no TF32; use float32, or --device cuda")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ValueError(f"--json {json_file}: there is no folder {json_file.parent}")
    if page is not None:
        tables.check_page(page, wanted)
    names = list(networks or default_networks(device))
    where = f"{machine(device)}, {threads} thread{'s' if threads > 1 else ''}"
    heading = f"{where}\n$ {shlex.join(command)}"
    print(heading, flush=True)
    data: dict[str, Any] = {"machine": where, "command": shlex.join(command)}
    printed: dict[str, str] = {}

    def show(name: str, text: str) -> None:
        print(f"\n{text}", flush=True)
        printed[name] = f"{printed[name]}\n\n{text}" if name in printed else f"{heading}\n\n{text}"

    with settled(threads):
        if "cost" in wanted:
            data["cost"] = []
            for name in names:
                subject = NETWORKS[name]
                found = cost(
                    name,
                    subject,
                    device=device,
                    precision=precision,
                    size=batch or subject.batch,
                    repetitions=repetitions,
                    compiled=compiled,
                    progress=_progress(name),
                )
                data["cost"].append(asdict(found))
                show("cost", tables.cost_table(found, precision))
        if "precision" in wanted:
            rows = [
                row
                for name in names
                for row in precision_errors(name, NETWORKS[name], device, _progress(name))
            ]
            data["precision"] = [asdict(row) for row in rows]
            show("precision", tables.precision_table(rows))
        if "differences" in wanted:
            steps = difference_errors(NETWORKS[names[0]], device, _progress(names[0]))
            data["differences"] = [asdict(row) for row in steps]
            show("differences", f"{names[0]}\n{tables.differences_table(steps)}")
        if "peer" in wanted:
            sides = peer(
                device=device,
                precision=precision,
                batch=batch,
                repetitions=repetitions,
                compiled=compiled,
                progress=_progress("first-order steps"),
            )
            data["peer"] = asdict(sides)
            clock = "processor time" if processor_time(device) else "wall time"
            show("peer", tables.peer_table(sides, clock))
    if "operators" in wanted:
        printed["operators"] = tables.operators_table(supported_operators())
        print(f"\n{printed['operators']}")
    if json_file is not None:
        json_file.write_text(json.dumps(data, indent=1))
    if page is not None:
        tables.replace_tables(page, printed)
    return 0


def _progress(network: str) -> Callable[[str], None]:
    def show(line: str) -> None:
        end = "" if sys.stderr.isatty() else "\n"
        start = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{start}{network}: {line}", end=end, file=sys.stderr, flush=True)

    return show
