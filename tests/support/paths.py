"""Where things are in a checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "meanflow_tune"
PROCESSES = ROOT / "tests" / "support" / "processes"  # scripts that tests run
SET_UP_FAULTS = ROOT / "tests" / "support" / "set_up_faults"  # a folder for PYTHONPATH
TINY_SPACE = PROCESSES / "tiny_space.py"
