"""The console that everything is shown on."""

import subprocess
import sys

from rich.text import Text

from meanflow_tune.report.text import hanging

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


def test_further_lines_of_an_indented_one_hang() -> None:
    line = Text("  one two three four five six seven eight nine ten eleven", style="yellow")
    found = hanging(line, 26)
    assert found.plain.splitlines() == [
        "  one two three four five",
        "    six seven eight nine",
        "    ten eleven",
    ]
    assert hanging(line, 80) is line
    assert hanging(line, 12) is line, "no room"
    flat = Text("one two three four five six seven eight")
    assert hanging(flat, 26) is flat
