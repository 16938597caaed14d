"""Hosts and slots on screens of 80 and 200 columns, and where there are more of them than lines."""

import io
from typing import Any

import pytest
from rich.cells import cell_len

from meanflow_tune.report.safe_console import SafeConsole
from meanflow_tune.report.state.host_lines import host_lines, size, slot_lines
from meanflow_tune.report.state.host_state import hosts_of, read_hosts

GIB = 2**30
TOTAL = 140 * GIB


def rank(host: str, gpu: int | None = None, percent: float | None = 93.0) -> dict[str, Any]:
    found: dict[str, Any] = {"host": host, "silent_s": 0.5, "memory": 3 * GIB // 2}
    if gpu is not None:
        found |= {"gpu": "NVIDIA H200", "gpu_id": f"{host}-{gpu}", "gpu_memory": 7 * GIB}
        found |= {"gpu_memory_total": TOTAL, "gpu_percent": percent}
    return found


def slot(number: int | None, *ranks: dict[str, Any], **more: Any) -> dict[str, Any]:
    state = "running" if number is not None else "ready"
    return {
        "number": number,
        "silent_s": 0.5,
        "lost": False,
        "starts": 1,
        "state": state,
        "state_s": 40.0,
        "detail": "",
        "hosts": [],
        "ranks": dict(enumerate(ranks)),
    } | more


SLOTS = {
    "slot-10": slot(None, hosts=["node7 (10.0.0.7)"], state="waiting", detail="1 CPU on any host"),
    "slot-2": slot(None, rank("node8 (10.0.0.8)", 1, 12.0)),
    "slot-0": slot(3, rank("node7 (10.0.0.7)", 0), rank("node8 (10.0.0.8)", 0)),
    "slot-1": slot(4, rank("node9", None), silent_s=75.0),
    "slot-3": slot(None, state="ended", detail="no host is left for it"),
    "slot-4": slot(
        None,
        state="restarting",
        state_s=2.0,
        detail="rank 1: killed; restarts in 2 s",
        hosts=["node8 (10.0.0.8)"],
    ),
}
HOSTS = read_hosts(hosts_of({"slots": SLOTS}, lambda number: f"trial {number}"))


def many(count: int, broken: int) -> Any:
    slots = {
        f"slot-{k}": slot(None if k < broken else k, rank(f"node{k}", 0, float(k)), lost=k < broken)
        for k in range(count)
    }
    return read_hosts(hosts_of({"slots": slots}, lambda number: f"trial {number}"))


def golden(text: str) -> list[str]:
    return text.strip("\n").split("\n")


def lines(width: int, most: int = 10, hosts: Any = HOSTS) -> list[str]:
    return [line.plain for line in host_lines(hosts, width, most)]


def test_a_wide_view_has_a_line_per_host_with_all_of_it() -> None:
    assert lines(200) == golden(
        """
node7 (10.0.0.7)  1 running, slot-10 waiting for 40 s: 1 CPU on any host                            1.5 GiB        GPU 93 %   7.0/140 GiB
node8 (10.0.0.8)  1 running, 1 ready, slot-4 restarting for 2.0 s: rank 1: killed; restarts in 2 s  3.0 GiB  2 GPUs 12-93 %  14.0/280 GiB
node9             slot-1 silent for 75 s                                                            1.5 GiB
"""  # noqa: E501
    )


def test_an_usual_view_leaves_out_what_is_least_missed() -> None:
    assert lines(80) == golden(
        """
node7 (10.0.0.7)  1 running, slot-10 waiting for 40 s:…  1.5 GiB        GPU 93 %
node8 (10.0.0.8)  1 running, 1 ready, slot-4 restartin…  3.0 GiB  2 GPUs 12-93 %
node9             slot-1 silent for 75 s                 1.5 GiB
"""
    )


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 24, 10])
@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_lines_fit(width: int, most: int) -> None:
    for hosts in (HOSTS, many(100, 0), many(100, 1), many(100, 50)):
        shown = lines(width, most, hosts)
        assert 1 <= len(shown) <= most
        assert all(cell_len(line) <= width for line in shown)
    assert lines(width, 0) == []


def test_of_a_hundred_hosts_those_with_something_wrong_are_shown() -> None:
    assert lines(100, 5, many(100, 2)) == golden(
        """
100 hosts, 100 slots: 98 running, 2 silent; 150.0 GiB; 100 GPUs 0-99 % 700/14,000 GiB
node0  slot-0 silent for 0.5 s  1.5 GiB  GPU 0 %  7.0/140 GiB
node1  slot-1 silent for 0.5 s  1.5 GiB  GPU 1 %  7.0/140 GiB
"""
    )
    assert lines(100, 3, many(100, 50))[-1] == "and 49 more hosts with a slot that does not run"
    assert len(lines(100, 3, many(100, 0))) == 1


def printed(width: int, plain: bool, hosts: Any = HOSTS, most: int | None = 12) -> list[str]:
    file = io.StringIO()
    console = SafeConsole(plain, file=file, width=width)
    for line in slot_lines(hosts, most):
        console.print(line)
    return [line.rstrip() for line in file.getvalue().splitlines()]


SLOT_LINES = """
node7 (10.0.0.7)  1.5 GiB  GPU 93 %  7.0/140 GiB
  slot-0   running, trial 3
  slot-10  waiting for 40 s: 1 CPU on any host
node8 (10.0.0.8)  3.0 GiB  2 GPUs 12-93 %  14.0/280 GiB
  slot-0   running, trial 3
  slot-2   ready
  slot-4   restarting for 2.0 s: rank 1: killed; restarts in 2 s
node9  1.5 GiB
  slot-1   silent for 75 s, trial 4
"""


@pytest.mark.parametrize(("width", "plain"), [(200, False), (80, True)])
def test_the_slots_of_each_host(width: int, plain: bool) -> None:
    assert printed(width, plain) == golden(SLOT_LINES)


def test_of_many_slots_those_that_do_not_run_are_listed() -> None:
    shown = printed(100, True, many(100, 3))
    assert shown[0].startswith("100 hosts, 100 slots: 97 running, 3 silent; ")
    assert shown[1:3] == ["node0  1.5 GiB  GPU 0 %  7.0/140 GiB", "  slot-0  silent for 0.5 s"]
    assert len(shown) == 1 + 2 * 3
    assert printed(100, True, many(100, 30))[-1] == "and 18 more slots that do not run"
    assert len(printed(100, True, many(100, 3), None)) == 200


def test_sizes() -> None:
    assert [size(n) for n in (0, 50 * 2**20, GIB // 8, 3 * GIB)] == [
        "",
        "50 MiB",
        "0.1 GiB",
        "3.0 GiB",
    ]
