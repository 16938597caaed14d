"""`python paced.py ARGUMENTS`: scripts/tune.py whose workers are those of `paced_worker`."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    from meanflow_tune.training import job
    from tests.support.hosts import paced_worker

    job.run_job = paced_worker.run_job
    sys.argv[0] = str(ROOT / "scripts" / "tune.py")  # the command that it prints is the usual one
    importlib.import_module("meanflow_tune.driver.tune_command").run_process(sys.argv[1:])
