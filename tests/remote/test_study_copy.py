"""The driver's copy of a study: what a host that vanished had sent, and another host's later state."""

import itertools
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meanflow_tune.remote import study_copy
from meanflow_tune.remote.location import local_folder
from meanflow_tune.remote.object_store import ObjectStore
from meanflow_tune.remote.study_copy import (
    MANIFEST,
    StudyCopy,
    delete_stored,
    fetch_files,
    fetch_study,
)
from meanflow_tune.search.errors import LeaseLost

STUDY = "digits"


class Host:
    """A host with an empty disk of its own, on which drivers work one after another."""

    def __init__(self, root: Path, store: ObjectStore) -> None:
        self.root, self.store, self.folder = root, store, root / STUDY
        self.said: list[str] = []

    def drive(self, epoch: int) -> StudyCopy:
        copy = StudyCopy(self.store, self.root, STUDY)
        copy.fetch_manifest()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "lease.json").write_text(json.dumps({"epoch": epoch}))
        copy.begin(lambda: None, self.said.append)
        return copy

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text() if path.exists() else None


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(f"file://{tmp_path / 'store'}")


@pytest.fixture
def hosts(tmp_path: Path, store: ObjectStore) -> tuple[Host, Host]:
    return Host(tmp_path / "one", store), Host(tmp_path / "other", store)


def test_the_storage_tells_that_a_driver_has_ended(hosts: tuple[Host, Host]) -> None:
    """The lease in the folder is released after the last copy."""
    one, _ = hosts
    copy = one.drive(4)
    one.write("lease.json", json.dumps({"epoch": 4, "pid": 17}))
    copy.end()
    copy.release()
    assert json.loads(one.store.read(f"{STUDY}/lease.json") or b"") == {"epoch": 4, "pid": None}
    assert json.loads(one.read("lease.json") or "")["pid"] == 17, (
        "its own is the lease's to release"
    )


def test_the_lease_of_another_driver_is_left_alone(hosts: tuple[Host, Host]) -> None:
    one, other = hosts

    def lost() -> None:
        raise LeaseLost("another driver has it")

    copy = one.drive(1)
    copy.stop()
    copy._fence = lost
    other.drive(2).stop()
    with pytest.raises(LeaseLost):
        copy.release()
    assert json.loads(one.store.read(f"{STUDY}/lease.json") or b"") == {"epoch": 2}


def test_another_host_takes_what_was_sent(hosts: tuple[Host, Host]) -> None:
    one, other = hosts
    copy = one.drive(1)
    one.write(MANIFEST, "{}")
    one.write("outbox/events.jsonl", "first\n")
    one.write("trials/00000/checkpoints/1.pt", "large")
    one.write("lease.lock", "")
    copy.end()
    one.write("outbox/events.jsonl", "first\nunsent\n")
    second = other.drive(2)
    assert other.read("outbox/events.jsonl") == "first\n"
    assert other.read("lease.json") == '{"epoch": 2}'
    assert other.read("trials/00000/checkpoints/1.pt") is None
    assert not any("lease.lock" in file.name for file in one.store.files(STUDY))
    other.write("outbox/events.jsonl", "first\nof the other\n")
    other.write("best.json", "{}")
    second.end()
    third = one.drive(3)
    assert one.read("outbox/events.jsonl") == "first\nof the other\n"
    assert one.read("best.json") == "{}"
    third.end()


def test_a_host_that_drove_last_keeps_what_it_had_not_sent(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    one.write(MANIFEST, "{}")
    one.drive(1).end()
    one.write("outbox/events.jsonl", "unsent\n")
    one.drive(2).end()
    assert one.store.read(f"{STUDY}/outbox/events.jsonl") == b"unsent\n"


def test_changes_are_sent_meanwhile(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_copy, "PAUSE_SECONDS", 0.05)
    one, _ = hosts
    copy = one.drive(1)
    for text in ("a", "b"):
        one.write("status.json", text)
        end = time.monotonic() + 60
        while one.store.read(f"{STUDY}/status.json") != text.encode():
            assert time.monotonic() < end
            time.sleep(0.02)
    sent = copy.sent
    copy.end()
    assert copy.sent == sent  # nothing twice
    assert one.said == []


def test_a_study_of_many_files_is_looked_at_less_often(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = hosts
    copy = StudyCopy(one.store, one.root, STUDY)
    spent = itertools.accumulate([0.0, 0.01, 0.0, 0.8, 0.0, 0.1])
    monkeypatch.setattr(study_copy, "time", SimpleNamespace(thread_time=lambda: next(spent)))
    pauses: list[float] = []

    def wait(pause: float) -> bool:
        pauses.append(pause)
        return len(pauses) == 4

    monkeypatch.setattr(copy._stop, "wait", wait)
    one.write("lease.json", json.dumps({"epoch": 1}))
    copy.begin(lambda: None, one.said.append)
    copy.stop()
    assert pauses == [3.0, 3.0, pytest.approx(8.0), 3.0]


def test_a_storage_that_does_not_answer_is_named_once_and_caught_up(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_copy, "PAUSE_SECONDS", 0.02)
    one, _ = hosts
    copy = one.drive(1)

    def refuse(store: ObjectStore, path: Path, name: str) -> int:
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "send", refuse)
        one.write("status.json", "a")
        end = time.monotonic() + 60
        while not one.said:
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(OSError, match="no route"):
            copy.end()
    (line,) = one.said
    assert "could not copy the study's files to" in line
    copy.end()
    assert one.store.read(f"{STUDY}/status.json") == b"a"


def test_workers_remove_folders_meanwhile(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on the driver's host deletes the checkpoints of a trial that has ended."""
    one, _ = hosts
    copy = one.drive(1)
    for number in range(20):
        one.write(f"trials/{number:05d}/checkpoints/deep/1.pt", "large")
        one.write(f"trials/{number:05d}/config.json", "{}")
    scan = os.scandir

    def removing(path: Any) -> Any:
        if not isinstance(path, int) and Path(path).name == "checkpoints":
            shutil.rmtree(path, ignore_errors=True)
        return scan(path)

    monkeypatch.setattr("os.scandir", removing)
    copy.send()
    monkeypatch.undo()
    copy.end()
    stored = [file.name for file in one.store.files(STUDY) if file.name.endswith("config.json")]
    assert len(stored) == 20


def test_a_driver_that_lost_its_lease_sends_nothing(hosts: tuple[Host, Host]) -> None:
    one, _ = hosts
    copy = one.drive(1)

    def lost() -> None:
        raise LeaseLost("gone")

    copy._fence = lost
    one.write("status.json", "late")
    with pytest.raises(LeaseLost):
        copy.end()
    assert one.store.read(f"{STUDY}/status.json") is None


def test_a_removed_model_is_removed_from_the_storage(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEANFLOW_TUNE_CACHE", str(tmp_path / "cache"))
    root = local_folder(store.url)
    store.write(f"{STUDY}/trials/00001/model/config.json", b"{}")
    store.write(f"{STUDY}/trials/00001/config.json", b"{}")
    delete_stored(root / STUDY / "trials" / "00001" / "model")
    assert [file.name for file in store.files(STUDY)] == [f"{STUDY}/trials/00001/config.json"]
    delete_stored(tmp_path / "elsewhere")  # no copy of anything


def test_a_trials_file_that_changed_is_fetched_although_it_has_the_same_size(
    hosts: tuple[Host, Host],
) -> None:
    one, _ = hosts
    copy = one.drive(1)
    one.write("trials/00001/curve.json", "old")
    past = time.time() - 60.0
    os.utime(one.folder / "trials/00001/curve.json", (past, past))
    one.store.write(f"{STUDY}/trials/00001/curve.json", b"new")  # of a worker elsewhere
    copy.fetch_trial(one.folder / "trials/00001")
    assert one.read("trials/00001/curve.json") == "new"
    copy.end()


def test_who_reads_a_file_while_it_is_fetched_reads_a_whole_one(
    store: ObjectStore, tmp_path: Path
) -> None:
    store.write(f"{STUDY}/{MANIFEST}", b"first")
    fetch_files(store, tmp_path, STUDY, (MANIFEST, "status.json"))
    with open(tmp_path / STUDY / MANIFEST) as reader:
        store.write(f"{STUDY}/{MANIFEST}", b"second")
        fetch_files(store, tmp_path, STUDY, (MANIFEST, "status.json"))
        StudyCopy(store, tmp_path, STUDY).fetch_manifest()
        assert reader.read() == "first"
    assert (tmp_path / STUDY / MANIFEST).read_text() == "second"
    store.delete(f"{STUDY}/{MANIFEST}")
    fetch_files(store, tmp_path, STUDY, (MANIFEST,))
    assert not (tmp_path / STUDY / MANIFEST).exists()


def test_a_reader_fetches_neither_checkpoints_nor_models(
    store: ObjectStore, tmp_path: Path
) -> None:
    for name in (MANIFEST, "trials/1/checkpoints/1.pt", "trials/1/model/config.json", "a.lock"):
        store.write(f"{STUDY}/{name}", b"{}")
    folder = fetch_study(store, tmp_path / "reader", STUDY)
    assert [p.name for p in folder.rglob("*") if p.is_file()] == [MANIFEST]
