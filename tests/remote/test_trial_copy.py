"""A trial's folder in an object store: order, damage, two hosts, and a kill at any moment."""

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from meanflow_tune.remote.object_store import ObjectStore
from meanflow_tune.remote.trial_copy import TrialCopy
from meanflow_tune.training.checkpoints import load_checkpoint, newest_checkpoint, save_checkpoint
from tests.support.servers.s3 import S3Server

TRIAL = "study/trials/00003"


TWICE = (("samples", "npz"), ("checkpoints", "pt"))


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Host:
    """A host with an empty disk of its own."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.folder, self.store = root, root / TRIAL, ObjectStore(url)
        self.warned: list[str] = []

    def copy(self) -> TrialCopy:
        copy = TrialCopy(self.store, self.root, self.folder)
        copy.fetch()
        return copy

    def train(self, images: int) -> None:
        """Leave what a rung leaves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.json").write_text("{}")
        samples = self.folder / "samples" / f"{images:012d}.npz"
        samples.parent.mkdir(exist_ok=True)
        samples.write_bytes(os.urandom(100))
        save_checkpoint(
            self.folder / "checkpoints", images, {"images": images, "noise": os.urandom(16).hex()}
        )

    def images(self) -> int | None:
        """Where it would resume."""
        found = newest_checkpoint(self.folder / "checkpoints", self.warned.append)
        return None if found is None else load_checkpoint(found)["images"]

    def files(self) -> set[str]:
        return {
            p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()
        }


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path / 'store'}"
    server: S3Server = request.getfixturevalue("s3")
    return server.new_url()


def test_another_host_continues_where_the_first_reported(url: str, tmp_path: Path) -> None:
    one, other = Host(tmp_path / "one", url), Host(tmp_path / "other", url)
    copy = one.copy()
    for images in (100, 200):
        one.train(images)
        copy.send()
    one.train(300)  # never sent, and so never reported
    other.copy()
    assert other.images() == 200
    newest = {f"checkpoints/{200:012d}.{kind}" for kind in ("pt", "sha256")}
    samples = {f"samples/{images:012d}.npz" for images in (100, 200)}
    assert other.files() == {"config.json", *newest, *samples}
    again = other.copy()
    other.train(300)
    again.send()
    one.copy()
    assert one.images() == 300


def test_what_was_not_sent_is_forgotten(url: str, tmp_path: Path) -> None:
    """Every rank has to resume from the same checkpoint, on whichever host."""
    host = Host(tmp_path / "one", url)
    copy = host.copy()
    host.train(100)
    copy.send()
    host.train(200)
    host.copy()
    assert host.images() == 100


def test_a_host_that_was_replaced_takes_what_the_other_one_stored(url: str, tmp_path: Path) -> None:
    """Its own files of the same name and size are those of a rung that was never reported."""
    one, other = Host(tmp_path / "one", url), Host(tmp_path / "other", url)
    one.copy()
    one.train(100)
    samples, checkpoint = (f"{kind}/{100:012d}.{end}" for kind, end in TWICE)
    past = time.time() - 60.0
    for path in one.folder.rglob("*.*"):
        os.utime(path, (past, past))
    copy = other.copy()
    other.train(100)
    copy.send()
    again = one.copy()
    for name in (samples, checkpoint):
        assert (one.folder / name).read_bytes() == (other.folder / name).read_bytes()
    again.send()
    assert again.sent == 0


def test_a_copy_of_an_earlier_study_of_that_name_is_not_resumed(url: str, tmp_path: Path) -> None:
    host = Host(tmp_path / "one", url)
    host.train(100)
    host.copy()
    assert host.files() == set()


@pytest.mark.parametrize("sent", range(5))
def test_a_kill_after_any_file_leaves_a_whole_checkpoint(
    url: str, tmp_path: Path, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = Host(tmp_path / "one", url), Host(tmp_path / "other", url)
    copy = one.copy()
    one.train(100)
    copy.send()
    one.train(200)
    count, send = 0, ObjectStore.send

    def killed(store: ObjectStore, path: Path, name: str) -> int:
        nonlocal count
        if count == sent:
            raise Killed
        count += 1
        return send(store, path, name)

    monkeypatch.setattr(ObjectStore, "send", killed)
    # In this order: configuration, samples, checkpoint, checksum.
    with pytest.raises(Killed) if sent < 4 else nullcontext():
        copy.send()
    monkeypatch.undo()
    other.copy()
    assert other.images() == (200 if sent == 4 else 100)
    assert other.warned == []


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_checkpoint_is_passed_over(url: str, tmp_path: Path, damage: str) -> None:
    one, other = Host(tmp_path / "one", url), Host(tmp_path / "other", url)
    copy = one.copy()
    for images in (100, 200):
        one.train(images)
        copy.send()
    name = f"{TRIAL}/checkpoints/{200:012d}.pt"
    data = one.store.read(name)
    assert data is not None
    wrong = {"cut": data[:-1], "changed": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}
    one.store.write(name, wrong[damage])
    other.copy()
    assert other.images() == 100


def test_thinned_out_checkpoints_go_from_the_storage_too(url: str, tmp_path: Path) -> None:
    host = Host(tmp_path / "one", url)
    copy = host.copy()
    for images in range(100, 700, 100):
        host.train(images)
        copy.send()
    stored = [f.name for f in host.store.files(TRIAL) if f.name.endswith(".pt")]
    assert [name[-6:-3] for name in stored] == ["400", "500", "600"]
    copy.clear(whole=False)
    assert host.files() >= {"config.json"}
    assert not any("checkpoints" in name for name in host.files())
    assert len([f for f in host.store.files(TRIAL) if f.name.endswith(".pt")]) == 3
    copy.clear(whole=True)
    assert not host.folder.exists()
    host.copy()
    assert host.images() == 600


def test_nothing_is_sent_twice(url: str, tmp_path: Path) -> None:
    host = Host(tmp_path / "one", url)
    copy = host.copy()
    host.train(100)
    copy.send()
    sent = copy.sent
    assert sent > 0
    copy.send()
    assert copy.sent == sent
    again = host.copy()
    again.send()
    assert again.sent == 0


def test_temporary_files_and_locks_stay_here(url: str, tmp_path: Path) -> None:
    host = Host(tmp_path / "one", url)
    copy = host.copy()
    host.train(100)
    (host.folder / f".config.json.{'0' * 16}.tmp").write_text("{")
    (host.folder / "x.lock").write_text("")
    copy.send()
    assert not [f for f in host.store.files(TRIAL) if f.name.endswith((".tmp", ".lock"))]
    assert json.loads(host.store.read(f"{TRIAL}/config.json") or b"null") == {}
