"""What a user sees while a driver waits for a holder on another host."""

import json
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from meanflow_tune.driver import taking_lease
from meanflow_tune.driver.taking_lease import take_lease
from meanflow_tune.plan.request import EXIT_IN_USE, SearchRequest, UserError
from meanflow_tune.report.live import View
from meanflow_tune.search.store import lease_wait
from meanflow_tune.search.store.holder import LEASE_NAME
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.lease_wait import wait_for_lease


def given(tmp_path: Path, **more: Any) -> SearchRequest:
    return SearchRequest(study="s", storage=tmp_path, **more)


def leave_dead(folder: Path) -> None:
    Lease.acquire(folder).release()
    path = folder / LEASE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "elsewhere", "pid": 4242}))


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking_lease, "wait_for_lease", partial(wait_for_lease, stale_after=2.0))


@pytest.mark.usefixtures("_quick")
def test_without_a_terminal_it_is_said_once_per_ten_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_dead(tmp_path / "s")
    with take_lease(given(tmp_path), View()) as lease:
        assert lease.taken_over
    (line,) = capsys.readouterr().out.splitlines()
    assert "waiting for study s: process 4242 on host elsewhere holds it" in line
    assert re.search(r"free in [012] s if it stays silent", line)


@pytest.mark.usefixtures("_quick")
def test_a_line_follows_after_the_pause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking_lease, "SAID_SECONDS", 0.05)
    monkeypatch.setattr(lease_wait, "POLL_SECONDS", 0.05)
    leave_dead(tmp_path / "s")
    take_lease(given(tmp_path), View()).release()
    assert len(capsys.readouterr().out.splitlines()) >= 3


def test_on_a_terminal_one_line_counts_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    view = View()
    view.interactive = True
    countdown = taking_lease._Countdown("s", view)
    for left in (12.0, 11.0):
        holder = taking_lease.Holder("elsewhere", 4242, 30.0 - left, ("folder", 1), left)
        countdown.tell(holder, left)
        assert countdown._status is not None
        assert f"free in {left:.0f} s" in str(countdown._status.status)
    countdown.close()
    capsys.readouterr()


def test_take_over_of_a_living_holder_is_refused_with_its_process(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path / "s"), pytest.raises(UserError) as refused:
        take_lease(given(tmp_path, take_over=True), View(quiet=True))
    assert refused.value.status == EXIT_IN_USE
    assert "--take-over: the holder is not dead: study folder" in str(refused.value)
    assert "last heartbeat" in str(refused.value)


@pytest.mark.usefixtures("_quick")
def test_take_over_waits_less(tmp_path: Path) -> None:
    leave_dead(tmp_path / "s")
    began = time.monotonic()
    take_lease(given(tmp_path, take_over=True), View(quiet=True)).release()
    assert time.monotonic() - began >= 1.2
