"""Train one configuration, such as the best.json of a search, without Ray; resumes where it stopped."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  python scripts/train.py --config runs/second_order/best.json --output runs/best
  python scripts/train.py --config best.json --output long --set budget.images=1000000 --set seed=7
  torchrun --nproc-per-node 2 scripts/train.py --config best.json --output runs/best

exit status: 0 completed; 1 diverged; 2 bad usage or setting; 5 unusable folder; 130 interrupted, go on with
the same command"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="train.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument(
        "--config", required=True, type=Path, metavar="FILE", help="a TrialConfig as JSON"
    )
    p.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for checkpoints, samples, metrics.json and the model",
    )
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        dest="settings",
        help="change a setting, for example budget.images=1000000; may be repeated",
    )
    p.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/teachers"),
        metavar="DIR",
        help="cache of teachers (default: %(default)s)",
    )
    p.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1 ... (default: cuda where there is one, else cpu)",
    )
    return p


class Printer:
    """A sink that prints; the first Ctrl-C saves the state and ends."""

    def __init__(self) -> None:
        self.stop = False
        self.last: dict[str, Any] = {}
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._interrupt)

    def _interrupt(self, number: int, frame: object) -> None:
        self.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def report(self, report: dict[str, Any]) -> bool:
        self.last = report
        shown = {k: v for k, v in report["metrics"].items() if not k.startswith("loss/")}
        figures = "  ".join(f"{name} {value:.4f}" for name, value in shown.items())
        print(f"\r{report['images']:>12,} images  {figures}", flush=True)
        return True

    def tick(self, progress: dict[str, Any]) -> None:
        if sys.stderr.isatty():
            loss = progress.get("loss", float("nan"))
            text = (
                f"{progress['phase']} {progress['images']:,} / {progress['of']:,}  loss {loss:.4f}"
            )
            print(f"\r{text:<70}", end="", file=sys.stderr, flush=True)

    def stopping(self) -> bool:
        return self.stop


def main(argv: list[str] | None = None) -> int:
    """Parse, train, print."""
    arguments = parser().parse_args(argv)
    import torch

    from meanflow_tune.config import TrialConfig, override
    from meanflow_tune.records import Job
    from meanflow_tune.request import EXIT_INTERRUPTED, EXIT_UNUSABLE, UserError, usable_folder
    from meanflow_tune.training.serve import serve_job

    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    try:
        try:
            data = json.loads(arguments.config.read_text())
        except OSError as error:
            raise UserError(f"--config {arguments.config}: {error.strerror}.") from None
        except json.JSONDecodeError as error:
            raise UserError(f"--config {arguments.config}: not JSON ({error}).") from None
        try:
            config = TrialConfig.from_dict(override(data, arguments.settings))
        except ValueError as error:
            raise UserError(f"{arguments.config}: {error}") from None
        if config.budget.global_batch % size:
            raise UserError(
                f"budget.global_batch {config.budget.global_batch} must be a multiple of the {size} ranks."
            )
        output, cache = usable_folder(arguments.output), usable_folder(arguments.cache)
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return error.status
    device = arguments.device
    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if size > 1:
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    job = Job("alone", 0, config.to_dict(), str(output), 0, 0)
    printer = Printer()
    try:
        outcome = serve_job(job.to_dict(), rank, size, device, printer, cache=str(cache))
    except (ValueError, OSError) as error:
        print(f"\ntrain.py: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    if rank == 0 and printer.last:
        (output / "metrics.json").write_text(json.dumps(printer.last["metrics"], indent=1))
    if outcome["status"] == "completed":
        if rank == 0:
            print(f"model and metrics are in {output}")
        return 0
    print(f"\ntrain.py: {outcome['status']}: {outcome['reason']}", file=sys.stderr)
    return EXIT_INTERRUPTED if outcome["status"] == "running" else 1


if __name__ == "__main__":
    sys.exit(main())
