import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from meanflow_tune.tracking.outbox import Event, Outbox
from meanflow_tune.tracking.replay import Rejected, Replayer
from tests.support.paths import ROOT

PATIENCE = 120.0


class Notebook:
    """A sink that remembers, and fails as told: {event number: number of failures}."""

    def __init__(
        self, failures: dict[int, int] | None = None, reject: tuple[int, ...] = ()
    ) -> None:
        self.failures, self.reject = failures or {}, reject
        self.seen: list[int] = []

    def apply(self, event: Event) -> None:
        number = event.payload["n"]
        if number in self.reject:
            raise Rejected("never")
        if self.failures.get(number, 0) > 0:
            self.failures[number] -= 1
            raise ConnectionError("the server is down")
        self.seen.append(number)


def fill(outbox: Outbox, *numbers: int) -> None:
    for number in numbers:
        outbox.put("note", n=number)


def replay(outbox: Outbox, sink: Notebook) -> Replayer:
    with Replayer(outbox, sink, first_delay=0.001, longest_delay=0.01) as replayer:
        assert replayer.drain(PATIENCE) == 0
    return replayer


def test_events_are_replayed_in_order_and_once_over_processes(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    fill(outbox, 0, 1, 2)
    first, second = Notebook(), Notebook()
    replay(outbox, first)
    outbox.close()
    again = Outbox(tmp_path)
    fill(again, 3)
    replay(again, second)
    assert (first.seen, second.seen) == ([0, 1, 2], [3])
    assert again.uid == outbox.uid


def test_events_put_while_the_thread_waits_are_replayed(tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), Notebook()
    with Replayer(outbox, sink) as replayer:
        for number in range(3):
            fill(outbox, number)
            assert replayer.drain(PATIENCE) == 0
            assert sink.seen == list(range(number + 1))


def test_failures_are_retried_and_reported_without_a_change_of_order(tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), Notebook({0: 2, 2: 5})
    fill(outbox, 0, 1, 2, 3)
    replayer = replay(outbox, sink)
    assert sink.seen == [0, 1, 2, 3]
    assert replayer.status().error is None


def test_a_dead_sink_leaves_everything_pending_and_says_why(tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), Notebook({1: 10**9})
    fill(outbox, 0, 1, 2)
    with Replayer(outbox, sink, first_delay=0.001, longest_delay=0.01) as replayer:
        assert replayer.drain(0.3) == 2
        status = replayer.status()
        assert (status.pending, status.replayed) == (2, 1)
        assert status.error == "ConnectionError: the server is down"
        assert status.failing_since is not None
        sink.failures.clear()
        assert replayer.drain(PATIENCE) == 0
        assert replayer.status().failing_since is None
    assert sink.seen == [0, 1, 2]


def test_drain_does_not_wait_out_a_long_delay(tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), Notebook({0: 1})
    fill(outbox, 0)
    with Replayer(outbox, sink, first_delay=10_000.0, longest_delay=10_000.0) as replayer:
        while replayer.status().error is None:
            time.sleep(0.001)
        assert replayer.drain(PATIENCE) == 0


def test_rejected_events_are_set_aside_with_the_reason(tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), Notebook(reject=(1,))
    fill(outbox, 0, 1, 2)
    replayer = replay(outbox, sink)
    assert sink.seen == [0, 2]
    assert replayer.status().rejected == 1
    aside = json.loads((tmp_path / "outbox" / "rejected.jsonl").read_text())
    assert (aside["seq"], aside["reason"], aside["payload"]) == (1, "never", {"n": 1})


def test_a_key_is_written_once_also_after_reopening(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    assert outbox.put("note", key="a", n=0)
    assert not outbox.put("note", key="a", n=1)
    outbox.close()
    again = Outbox(tmp_path)
    assert not again.put("note", key="a", n=2)
    assert again.put("note", key="b", n=3)
    assert again.written == 2


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_torn_last_line_is_dropped_and_can_be_put_again(tmp_path: Path, cut: int) -> None:
    outbox = Outbox(tmp_path)
    outbox.put("note", key="a", n=0)
    outbox.put("note", key="b", n=1)
    outbox.close()
    path = tmp_path / "outbox" / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    again, sink = Outbox(tmp_path), Notebook()
    assert again.written == 1
    assert again.put("note", key="b", n=1)
    replay(again, sink)
    assert sink.seen == [0, 1]


def test_a_damaged_line_in_the_middle_stops_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    fill(outbox, 0)
    outbox.close()
    path = tmp_path / "outbox" / "events.jsonl"
    path.write_bytes(path.read_bytes() + b"\x00\xff nonsense\n")
    again, sink = Outbox(tmp_path), Notebook()
    fill(again, 2)
    assert replay(again, sink).status().rejected == 1
    assert sink.seen == [0, 2]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1]", '{"offset": 5}', '{"offset": -1}', '{"offset": 99999}', '{"offset": "1"}'],
)
def test_a_damaged_cursor_replays_everything(tmp_path: Path, text: str) -> None:
    outbox = Outbox(tmp_path)
    fill(outbox, 0, 1)
    replay(outbox, Notebook())
    (tmp_path / "outbox" / "cursor.json").write_text(text)
    sink = Notebook()
    replay(outbox, sink)
    assert sink.seen == [0, 1]


def test_a_full_disk_is_an_error_and_leaves_the_outbox_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(tmp_path)
    fill(outbox, 0)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:10]))
        with pytest.raises(OSError, match="No space left"):
            outbox.put("note", key="a", n=1)
    assert outbox.put("note", key="a", n=1)
    sink = Notebook()
    replay(outbox, sink)
    assert sink.seen == [0, 1]


def test_many_threads_may_put(tmp_path: Path) -> None:
    outbox, sink = Outbox(tmp_path), Notebook()
    writers = [
        threading.Thread(target=fill, args=(outbox, *range(10 * k, 10 * k + 10))) for k in range(4)
    ]
    with Replayer(outbox, sink) as replayer:
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert replayer.drain(PATIENCE) == 0
    assert sorted(sink.seen) == list(range(40))


KILLED = """
import os, signal, sys
from pathlib import Path
from meanflow_tune.tracking.outbox import Outbox
from meanflow_tune.tracking.replay import Replayer

class Suicidal:
    def apply(self, event):
        with open(sys.argv[2], "a") as file:
            file.write(f"{event.payload['n']}\\n")
        if event.payload["n"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

outbox = Outbox(Path(sys.argv[1]))
for n in range(5):
    outbox.put("note", n=n)
with Replayer(outbox, Suicidal()) as replayer:
    replayer.drain(60)
"""


def test_a_kill_between_effect_and_cursor_repeats_exactly_that_event(tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    script = [sys.executable, "-c", KILLED, str(tmp_path), str(effects)]
    root = str(ROOT)
    process = subprocess.run(script, env=os.environ | {"PYTHONPATH": root}, check=False)
    assert process.returncode == -signal.SIGKILL
    assert effects.read_text().split() == ["0", "1", "2"]
    sink = Notebook()
    replay(Outbox(tmp_path), sink)
    assert sink.seen == [2, 3, 4]


def test_an_error_of_many_lines_is_told_in_one(tmp_path: Path) -> None:
    class Full:
        def apply(self, event: Event) -> None:
            raise RuntimeError("database or disk is full\n[SQL: UPDATE tags SET value=?]\n(more)")

    outbox = Outbox(tmp_path)
    fill(outbox, 0)
    with Replayer(outbox, Full(), first_delay=0.001, longest_delay=0.001) as replayer:
        while (error := replayer.status().error) is None:
            time.sleep(0.001)
    assert error == "RuntimeError: database or disk is full"
