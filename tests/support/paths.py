"""Where things are in a checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "meanflow_tune"
PROCESSES = ROOT / "tests" / "support" / "processes"  # scripts that tests run
TINY_SPACE = PROCESSES / "tiny_space.py"
