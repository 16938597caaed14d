"""Python imports this at its start where the folder is on PYTHONPATH: faults of a rank's set-up.

The first rank that makes its process group while the file named by SET_UP_FAULT exists removes it, and
does what it says: "kill" (as `kill -9`) or "raise" (as Gloo does where hosts do not reach each other).
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def _fail(path: Path) -> None:
    try:
        what = path.read_text()
        path.unlink()
    except FileNotFoundError:  # another rank was first, or there is no fault now
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise RuntimeError("Gloo connectFullMesh failed with [../gloo/pair.cc:144] timed out")


def _wait_for_torch(path: Path) -> None:
    while not hasattr(sys.modules.get("torch.distributed"), "init_process_group"):
        time.sleep(0.001)
    dist: Any = sys.modules["torch.distributed"]
    make = dist.init_process_group

    def faulty(*arguments: Any, **keywords: Any) -> Any:
        _fail(path)
        return make(*arguments, **keywords)

    dist.init_process_group = faulty


if "SET_UP_FAULT" in os.environ and any("default_worker.py" in word for word in sys.orig_argv):
    threading.Thread(
        target=_wait_for_torch, args=(Path(os.environ["SET_UP_FAULT"]),), daemon=True
    ).start()
