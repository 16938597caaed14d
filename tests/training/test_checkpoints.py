"""Checkpoints: a kill or damage at any point leaves a valid one, and every fall-back is said."""

import os
import re
from pathlib import Path

import pytest
import torch

from meanflow_tune.checksums import Damaged
from meanflow_tune.training import checkpoints
from meanflow_tune.training.checkpoints import (
    keep_newest,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)


def filled(folder: Path) -> list[str]:
    for images in (0, 5, 10, 20, 30):
        save_checkpoint(folder, images, {"step": images, "weight": torch.full((3,), images)})
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_of_the_last_three_is_loaded_and_older_ones_go(tmp_path: Path) -> None:
    names = filled(tmp_path)
    assert names == [f"{n:012d}.{end}" for n in (10, 20, 30) for end in ("pt", "sha256")]
    path = newest_checkpoint(tmp_path, pytest.fail)
    assert path is not None
    assert load_checkpoint(path)["step"] == 30


def test_what_is_kept_is_the_newest_valid_one(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / f"{30:012d}.pt").write_bytes(b"torn")
    keep_newest(tmp_path, 3)
    assert len(list(tmp_path.iterdir())) == 6
    keep_newest(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{20:012d}.pt",
        f"{20:012d}.sha256",
    ]
    keep_newest(tmp_path, 0)
    assert not list(tmp_path.iterdir())
    keep_newest(tmp_path / "none", 0)


def test_without_a_valid_one_the_damaged_ones_stay(tmp_path: Path) -> None:
    for path in [tmp_path / name for name in filled(tmp_path)]:
        path.write_bytes(b"torn")
    keep_newest(tmp_path, 1)
    assert len(list(tmp_path.glob("*.pt"))) == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "no checksum", "bad checksum", "empty"])
def test_a_damaged_newest_falls_back_and_says_so(tmp_path: Path, damage: str) -> None:
    filled(tmp_path)
    newest = tmp_path / f"{30:012d}.pt"
    content = newest.read_bytes()
    if damage == "flip":
        newest.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "cut":
        newest.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        newest.write_bytes(b"")
    elif damage == "bad checksum":
        newest.with_suffix(".sha256").write_bytes(b"\xff" * 64)
    else:
        newest.with_suffix(".sha256").unlink()
    said: list[str] = []
    path = newest_checkpoint(tmp_path, said.append)
    assert path is not None
    assert load_checkpoint(path)["step"] == 20
    assert len(said) == 1
    assert newest.name in said[0]


def test_nothing_valid_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent", pytest.fail) is None


@pytest.mark.parametrize("at", ["payload", "checksum"])
def test_a_kill_while_saving_keeps_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    filled(tmp_path)
    real = checkpoints.write_atomic
    calls = iter(["payload", "checksum"])

    def dying(path: Path, write: object) -> None:
        if next(calls) == at:
            raise KeyboardInterrupt
        real(path, write)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "write_atomic", dying)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 40, {"step": 40})
    path = newest_checkpoint(tmp_path, lambda line: None)
    assert path is not None
    assert load_checkpoint(path)["step"] == 30


def test_everything_is_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut after a rename must not find an empty file under the new name."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append(f"sync {_plain(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def renamed(old: Path, new: Path) -> None:
        done.append(f"rename {_plain(old)} {_plain(new)}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    save_checkpoint(tmp_path / "checkpoints", 40, {"step": 40})
    expected = []
    for name in (f"{40:012d}.pt", f"{40:012d}.sha256"):
        beside = f".{name}.TOKEN.tmp"
        expected += [f"sync {beside}", f"rename {beside} {name}", "sync checkpoints"]
    assert done == expected


def _plain(path: str | Path) -> str:
    return re.sub(r"[0-9a-f]{16}(?=[.]tmp$)", "TOKEN", Path(path).name)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    """torch.load executes pickles unless weights_only is on."""

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"x": Payload()}, tmp_path / "bad.pt")
    with pytest.raises(Damaged, match="holds more than tensors and plain data") as caught:
        load_checkpoint(tmp_path / "bad.pt")
    assert "weights_only" not in str(caught.value), "torch's own advice would run it"
    assert not (tmp_path / "ran").exists()
