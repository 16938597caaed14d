"""Refused events: told once, counted over all drivers, tried again by each, and gone once they are taken."""

from pathlib import Path

from meanflow_tune.tracking.outbox import Event, Outbox
from meanflow_tune.tracking.rejections import Rejections
from meanflow_tune.tracking.replay import Audit, Rejected, Replayer

PATIENCE = 120.0


class Picky:
    """Refuses some trials as a server does; can say what it lacks, so that it is an auditor."""

    def __init__(self, refuses: tuple[str, ...], target: str = "") -> None:
        self.refuses, self.target = refuses, target
        self.taken: list[str] = []
        self.audits = 0

    def apply(self, event: Event) -> None:
        trial = event.payload["trial"]
        if trial in self.refuses:
            raise Rejected(f"no room for {trial} at http://me:secret@host/x", "make room")
        self.taken.append(trial)

    def audit(self, events: object, refused: object) -> Audit:
        self.audits += 1
        lacking = [event for event in events if event.seq in refused]  # type: ignore[attr-defined]
        return Audit(lacking)


def replay(outbox: Outbox, sink: Picky, said: list[str]) -> Replayer:
    with Replayer(outbox, sink, first_delay=0.001, say=said.append) as replayer:
        assert replayer.drain(PATIENCE) == 0
    return replayer


def test_refusals_last_over_drivers_until_they_are_taken(tmp_path: Path) -> None:
    outbox, said = Outbox(tmp_path), list[str]()
    for trial in ("0", "1", "2"):
        outbox.put("reported", trial=trial)
    first = replay(outbox, Picky(("1", "2")), said)
    assert first.status().rejected == 2
    assert said == [
        f"MLflow refused an event (trial {trial}, reported: no room for {trial} at http://***@host/x; "
        "make room); the search continues, and the event is kept"
        for trial in ("1", "2")
    ]
    # The next driver tries both again, says nothing new, and counts what still stands.
    said.clear()
    second = Picky(("2",))
    again = replay(outbox, second, said)
    assert (second.taken, said, again.status().rejected) == (["1"], [], 1)
    lines = again.rejections.lines("toy")
    assert lines[0].startswith("1 event of toy refused by MLflow, kept in ")
    assert "rejected.jsonl" in lines[0]
    assert lines[1] == "  1 x no room for 2 at http://***@host/x; make room"
    assert "secret" not in (tmp_path / "outbox" / "rejected.jsonl").read_text()
    third = replay(outbox, Picky(()), said)
    assert third.status().rejected == 0
    assert third.rejections.lines("toy") == []
    assert Rejections(tmp_path / "outbox").standing == []


def test_many_reasons_are_summed_up_and_another_reason_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    refused = Rejections(tmp_path, said.append)
    for seq in range(10):
        event = Event(seq, "reported", 0.0, {"trial": str(seq)}, 0)
        refused.add(event, f"reason {min(seq, 4)}\nand more", "")
        refused.add(event, f"reason {min(seq, 4)}\nand more", "")
    assert len(said) == 10
    refused.add(Event(0, "reported", 0.0, {"trial": "0"}, 0), "x" * 1000, "")
    assert len(said) == 11
    assert all(len(line) < 500 and len(line.splitlines()) == 1 for line in said)
    lines = Rejections(tmp_path).lines("toy")
    assert lines[0].startswith("10 events of toy refused")
    assert lines[1].strip() == "6 x reason 4 and more"
    assert lines[-1].strip() == "and 2 further reasons"


def test_lines_of_earlier_revisions_and_damaged_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "rejected.jsonl").write_text(
        '{"seq": 4, "kind": "reported", "reason": "old", "payload": {"trial": "7"}}\n{"seq": \n[]\n'
    )
    (standing,) = Rejections(tmp_path).standing
    assert str(standing) == "trial 7, reported: old"


def test_each_target_has_its_own_cursor(tmp_path: Path) -> None:
    """A corrected URI gets everything, and the first one continues where it was."""
    outbox, said = Outbox(tmp_path), list[str]()
    outbox.put("reported", trial="0")
    first, other, back = Picky((), "a"), Picky((), "b"), Picky((), "a")
    replay(outbox, first, said)
    outbox.put("reported", trial="1")
    replay(outbox, other, said)
    outbox.put("reported", trial="2")
    replay(outbox, back, said)
    assert (first.taken, other.taken, back.taken) == (["0"], ["0", "1"], ["1", "2"])
    # Only what had got events before is compared at the start.
    assert (first.audits, other.audits, back.audits) == (0, 0, 1)


def test_an_audit_that_fails_is_repeated_and_waited_for(tmp_path: Path) -> None:
    class Down(Picky):
        def audit(self, events: object, refused: object) -> Audit:
            super().audit(events, refused)
            raise ConnectionError("http://me:secret@host is down")

    outbox, said = Outbox(tmp_path), list[str]()
    outbox.put("reported", trial="0")
    replay(outbox, Picky(()), said)
    sink = Down(())
    with Replayer(outbox, sink, first_delay=0.001, longest_delay=0.002) as replayer:
        assert replayer.drain(0.2) == 1
        status = replayer.status()
        assert (status.auditing, status.pending) == (True, 0)
        assert status.error == "ConnectionError: http://***@host is down"
    assert sink.audits > 1
