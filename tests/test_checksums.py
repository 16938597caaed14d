"""Checksums: what is read is what was written, and damaged files keep their content under another name."""

import errno
import re
import subprocess
from pathlib import Path

import pytest

from meanflow_tune import checksums
from meanflow_tune.checksums import (
    MISMATCH,
    Damaged,
    checksum_file,
    digest,
    put_aside,
    read_checked,
    record,
    recorded,
    write_checked,
)


def test_what_was_written_is_read_and_the_checksum_is_that_of_sha256sum(tmp_path: Path) -> None:
    path = tmp_path / "a b.json"
    write_checked(path, "one\n")
    assert read_checked(path) == b"one\n"
    check = ["sha256sum", "--check", checksum_file(path).name]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True).returncode == 0
    write_checked(path, lambda temporary: temporary.write_text("two"))
    assert read_checked(path) == b"two"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "checksum", "empty checksum"])
def test_any_damage_is_found(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x"
    write_checked(path, "content")
    if damage == "flip":
        path.write_text("contenu")
    elif damage == "cut":
        path.write_text("conten")
    elif damage == "empty":
        path.write_text("")
    else:
        checksum_file(path).write_bytes(b"\xff" * 64 if damage == "checksum" else b"")
    with pytest.raises(Damaged, match=MISMATCH):
        read_checked(path)


def test_a_file_of_an_earlier_revision_has_no_checksum_and_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("content")
    assert recorded(path) is None
    assert read_checked(path) == b"content"
    record(path, digest(path))
    path.write_text("other")
    with pytest.raises(Damaged):
        read_checked(path)


def test_a_kill_between_the_file_and_its_checksum_leaves_no_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    write_checked(path, "old")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checksums, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checked(path, "new")
    assert read_checked(path) == b"new"


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_block_that_is_lost_is_damage_and_a_server_that_is_away_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "x"
    write_checked(path, "content")

    def unreadable(_: Path) -> bytes:
        raise OSError(code, "Input/output error")

    monkeypatch.setattr(checksums, "recorded", lambda path: None)
    monkeypatch.setattr(Path, "read_bytes", unreadable)
    kind, words = (Damaged, "cannot be read") if code == errno.EIO else (OSError, "Input/output")
    with pytest.raises(kind, match=words) as caught:
        read_checked(path)
    assert isinstance(caught.value, Damaged) == (code == errno.EIO)


def test_two_damaged_files_of_one_name_are_both_kept(tmp_path: Path) -> None:
    kept = []
    for text in ("one", "two", "three"):
        write_checked(tmp_path / "x", text)
        kept.append(put_aside(tmp_path / "x"))
    assert not (tmp_path / "x").exists()
    assert not checksum_file(tmp_path / "x").exists()
    assert [path.read_text() for path in kept] == ["one", "two", "three"]
    assert all(re.fullmatch(r"x\.damaged-\d{8}-\d{6}(-\d)?", path.name) for path in kept)
