"""One stage in a process of its own: `python -m benchmarks.gpu_check.stage NAME DEVICE`.

It prints JSON lines, {"row": ...} or {"progress": ...}, while it runs, {"error": ...} where it fails, and
nothing else: what libraries print goes to standard error.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from benchmarks.gpu_check.rows import Bench, Row
from benchmarks.gpu_check.settings_standin import supply


def work_of(name: str) -> Callable[[Bench], None]:
    """What measures a stage; imported only here, since the stages of one run share no process."""
    if name == "checks":
        from benchmarks.gpu_check.checks import checks

        return checks
    if name in ("dit", "unet", "compiled"):
        from benchmarks.gpu_check import derivatives

        return {"dit": derivatives.dit, "unet": derivatives.unet, "compiled": derivatives.compiled}[
            name
        ]
    if name == "synchronisations":
        from benchmarks.gpu_check.synchronisations import synchronisations

        return synchronisations
    from benchmarks.gpu_check.steps import steps

    return steps


def main(name: str, device: str) -> int:
    """Run it; the status is 0 also where rows say that something failed."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**line: Any) -> None:
        print(json.dumps(line), file=lines, flush=True)

    def emit(row: Row) -> None:
        tell(row=row.to_dict())

    def progress(line: str) -> None:
        tell(progress=line)

    try:
        if supply():
            progress("pydantic is not installed: settings are built without their checks")
        if device == "cpu":
            import torch

            torch.set_num_threads(1)  # on networks this small more of them only wait for each other
        work_of(name)(Bench(device, emit, progress))
    except Exception as error:
        traceback.print_exc()
        text = (str(error).strip().splitlines() or [""])[0]
        tell(error=f"{type(error).__name__}: {text}"[:300])
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
