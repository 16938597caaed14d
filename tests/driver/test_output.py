"""A search outlives its terminal and its pipes; each is a process, with trials that are made up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.support.paths import PROCESSES, ROOT
from tests.support.processes.terminals import Screen, Terminal

pytestmark = pytest.mark.timeout(120)
SLOW = pytest.mark.slow
SCRIPT = str(PROCESSES / "made_up_search.py")


def command(folder: Path, pause: float = 0.1, *options: str) -> list[str]:
    return [sys.executable, SCRIPT, str(folder), str(pause), *options]


def environment(**changes: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    usual = {"PYTHONPATH": str(ROOT), "TERM": "xterm", "LANG": "C.UTF-8", "LC_ALL": ""}
    return kept | usual | {"OMP_NUM_THREADS": "1"} | changes


def is_whole(folder: Path) -> bool:
    """Whether the search ran to its end, and its summary is in the study's folder."""
    text = (folder / "s" / "summary.txt").read_text()
    return "6 trials (6 completed)" in text and "best proposed: trial 5" in text


def shell(folder: Path, line: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """`line` in bash, with the command as "$@"; its status is that of the command."""
    given = ["bash", "-c", f"set -o pipefail; {line}", "bash", *command(folder)]
    return subprocess.run(
        given, env=environment(**changes), capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize(
    "line",
    [
        '"$@" | head -1',
        pytest.param('"$@" 2>&1 | true', marks=SLOW),
        pytest.param('"$@" >&-', marks=SLOW),
        pytest.param('"$@" 2>&-', marks=SLOW),
        pytest.param('"$@" >&- 2>&- <&-', marks=SLOW),
    ],
)
def test_a_reader_that_leaves_and_a_closed_stream_end_no_search(line: str, tmp_path: Path) -> None:
    ended = shell(tmp_path, line)
    assert ended.returncode == 0, ended
    assert "Traceback" not in ended.stderr
    assert "Broken pipe" not in ended.stderr
    assert is_whole(tmp_path)
    for path in (tmp_path / "s").rglob("*"):  # a closed descriptor was not given to a file
        if path.is_file() and path.name != "search.log":  # whose lines are these
            assert b"trial 0 started" not in path.read_bytes(), path


@SLOW
def test_a_full_disk_below_the_output_ends_no_search(tmp_path: Path) -> None:
    ended = shell(tmp_path, '"$@" > /dev/full 2> /dev/full')
    assert ended.returncode == 0
    assert is_whole(tmp_path)


def test_a_closed_terminal_ends_no_search(tmp_path: Path) -> None:
    """SIGHUP to the session, then EIO from each write."""
    terminal = Terminal.start(command(tmp_path, 0.5), 80, 24, environment())
    assert "trial 1" in terminal.read_until(lambda text: "trial 1 started" in text)
    terminal.close()
    assert terminal.wait() == 0
    assert is_whole(tmp_path)


@SLOW
def test_a_hangup_stops_nothing_and_an_interrupt_still_does(tmp_path: Path) -> None:
    terminal = Terminal.start(command(tmp_path, 2.0), 80, 24, environment())
    terminal.read_until(lambda text: "trial 0 started" in text)
    os.kill(terminal.pid, signal.SIGHUP)
    text = terminal.read_until(lambda text: "trial 1 started" in text)
    assert "trial 1 started" in text
    os.kill(terminal.pid, signal.SIGTERM)
    terminal.read_until(lambda text: False, 30.0)
    assert terminal.wait() == 130
    lines = Screen(80).show(terminal.text).lines
    shown = lines[lines.index("Interrupted; nothing was lost. Resume with:") + 1]
    resumed = subprocess.run(
        ["bash", "-c", shown.replace(str(ROOT / "scripts" / "tune.py"), f"{SCRIPT} {tmp_path} 0")],
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "trial 1 resumed" in resumed.stdout
    assert is_whole(tmp_path)


@pytest.mark.parametrize(
    "columns", [pytest.param(80, marks=SLOW), pytest.param(60, marks=SLOW), 30]
)
def test_the_live_view_fits_its_terminal(columns: int, tmp_path: Path) -> None:
    terminal = Terminal.start(command(tmp_path, 1.5), columns, 24, environment())
    text = terminal.read_until(lambda text: "Next steps" in text)
    assert terminal.wait() == 0
    assert "6,400 / 12,800" in text
    screen = Screen(columns).show(text[: text.index("Results:")])
    assert screen.wrapped == []
    assert "trial 5 completed" in "\n".join(screen.lines)
    assert not any("12,800 / 12,800" in line for line in screen.lines), (
        "the view is gone at the end"
    )


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"PYTHONIOENCODING": "ascii"}, marks=SLOW, id="PYTHONIOENCODING"),
        pytest.param({"LANG": "C", "LC_ALL": "C"}, marks=SLOW, id="LANG"),
        pytest.param({"TERM": "dumb"}, id="TERM"),
    ],
)
def test_a_terminal_without_unicode_gets_ascii(changes: dict[str, str], tmp_path: Path) -> None:
    terminal = Terminal.start(command(tmp_path, 0.5), 80, 24, environment(**changes))
    text = terminal.read_until(lambda text: "Next steps" in text)
    assert terminal.wait() == 0
    assert text.isascii()
    assert "UnicodeEncodeError" not in text
    assert "best proposed: trial 5" in text
    if "TERM" in changes:  # which cannot move the cursor
        assert "\x1b" not in text


@SLOW
def test_no_color_leaves_out_colours(tmp_path: Path) -> None:
    terminal = Terminal.start(command(tmp_path, 0.5), 80, 24, environment(NO_COLOR="1"))
    text = terminal.read_until(lambda text: "Next steps" in text)
    assert terminal.wait() == 0
    assert not any(f"\x1b[3{colour}m" in text for colour in range(8))
    assert not any(f"\x1b[1;3{colour}m" in text for colour in range(8))


@pytest.mark.parametrize("columns", [pytest.param(72, marks=SLOW), 40])
def test_a_pipe_is_as_wide_as_columns_say(columns: int, tmp_path: Path) -> None:
    ended = shell(tmp_path, '"$@" --quiet', COLUMNS=str(columns))
    assert ended.returncode == 0
    summary = ended.stdout[: ended.stdout.index("Results:")]
    assert max(map(cell_len, summary.splitlines())) <= columns
    assert "1.0000" in summary
