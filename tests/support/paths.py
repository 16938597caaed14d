"""Where things are in a checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "meanflow_tune"
TINY_SPACE = ROOT / "tests" / "support" / "processes" / "tiny_space.py"
