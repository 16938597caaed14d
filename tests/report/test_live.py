"""The live view shows a search; whatever fails in it, the search does not hear of it."""

import io
import sys
from typing import Any

import pytest
from rich.console import Console

from meanflow_tune.report import live
from meanflow_tune.report.live import View
from meanflow_tune.report.safe_console import SafeConsole


class Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError("gone")


def no_font(*_: object, **__: object) -> None:
    raise RuntimeError("no font")


@pytest.mark.parametrize("part", ["standing_lines", "outlook_lines", "Live"])
def test_a_live_view_that_cannot_be_drawn_is_said_once(
    part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Printing an event draws the view too, in the thread of the search."""
    monkeypatch.setattr(
        live, "make_console", lambda: Console(file=io.StringIO(), force_terminal=True)
    )
    monkeypatch.setattr(live, part, no_font)
    view = View()
    assert view.interactive
    with view:
        for number in range(3):
            view.state |= {"study": "s", "total": 3, "running": []}
            view.event(f"trial {number} started")
    errors = capsys.readouterr().err
    assert errors.count("could not draw the live view (RuntimeError: no font)") == 1


def test_a_closed_output_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    view = View()
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    with view:
        view.state["total"] = 3
        view.event("trial 0 started")
        view.state["done"] = {"completed": 1}
        view.beat()
        view.error("no space left")


def test_a_part_that_rich_cannot_render_fails_as_one_that_cannot_be_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich renders in a thread of its own, whose end would be a traceback and a frozen view."""
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, width=80, height=24)
    monkeypatch.setattr(live, "make_console", lambda: console)
    monkeypatch.setattr(View, "_lines", no_font)
    with View() as view:
        view.state |= {"study": "s", "total": 3}
        view.event("trial 0 started")
    assert capsys.readouterr().err.count("could not draw the live view") == 1
    assert "trial 0 started" in file.getvalue()


def test_a_low_terminal_shows_as_many_trials_as_it_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = SafeConsole(file=io.StringIO(), force_terminal=True, width=80, height=12)
    monkeypatch.setattr(live, "make_console", lambda: console)
    view = View()
    rows = [{"name": f"trial {n}", "what": "proposed", "phase": "train"} for n in range(40)]
    view.state |= {"study": "s", "total": 64, "running": rows, "best": "b", "forecast": "f"}
    lines = ["".join(part.text for part in line) for line in view._draw()._content]
    assert len(lines) < 12
    assert lines[0].startswith("s  0/64 trials")
    assert lines[-2:] == ["and 34 more", "f"]


def host(number: int, state: str = "running", why: str = "") -> dict[str, Any]:
    slot = {"slot": f"slot-{number}", "state": state, "waits_for": why, "seconds": 12.0}
    return {"host": f"node{number} (10.0.0.{number})", "slots": [slot | {"memory": 2**30}]}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (80, 12), (40, 10)])
def test_a_hundred_hosts_fit_the_screen(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = SafeConsole(file=io.StringIO(), force_terminal=True, width=width, height=height)
    monkeypatch.setattr(live, "make_console", lambda: console)
    view = View()
    hosts = [host(n) for n in range(98)]
    hosts += [host(98, "restarting", "rank 1: killed"), host(99, "waiting", "1 CPU on any host")]
    rows = [{"name": f"trial {n}", "what": "proposed", "phase": "train"} for n in range(98)]
    view.state |= {"study": "s", "total": 500, "running": rows, "slots": hosts, "forecast": "f"}
    lines = ["".join(part.text for part in line) for line in view._draw()._content]
    assert len(lines) < height
    assert all(len(line) <= width for line in lines)
    assert any(line.startswith("100 hosts, 100 slots: 98 running, 1 ") for line in lines)
    if height > 12:
        assert any("slot-98 restarting for 12 s: rank 1: k" in line for line in lines)
        assert any("slot-99 waiting for 12 s: 1 CPU" in line for line in lines)
    assert lines[-1] == "f"


def test_a_few_hosts_have_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    console = SafeConsole(file=io.StringIO(), force_terminal=True, width=80, height=24)
    monkeypatch.setattr(live, "make_console", lambda: console)
    view = View()
    view.state |= {"study": "s", "total": 5, "running": [], "slots": [host(7), host(8, "ready")]}
    lines = ["".join(part.text for part in line) for line in view._draw()._content]
    assert lines[1:] == [
        "node7 (10.0.0.7)  1 running  1.0 GiB",
        "node8 (10.0.0.8)  1 ready    1.0 GiB",
    ]
