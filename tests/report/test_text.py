"""The console that everything is shown on."""

import subprocess
import sys

LINES = """
from meanflow_tune.report.safe_console import make_console
console = make_console()
input()
for _ in range(10_000):
    console.print("a line")
"""


def test_a_reader_that_leaves_ends_nothing() -> None:
    """As in `tune.py | head -1`; Rich would exit with status 1."""
    given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LINES], **given) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""
