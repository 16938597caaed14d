"""Files of arrays: any damage and any pickle is refused in one line."""

import errno
import re
from pathlib import Path

import numpy as np
import pytest

from meanflow_tune import arrays as module
from meanflow_tune.arrays import read_arrays, write_arrays
from meanflow_tune.checksums import Damaged

ARRAYS = {"x": np.linspace(0, 1, 40).reshape(20, 2), "text": np.array('{"a": 1}')}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", ARRAYS)
    found = read_arrays(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys()
    assert all(np.array_equal(found[name], ARRAYS[name]) for name in ARRAYS)


def test_no_changed_byte_changes_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS)
    content = path.read_bytes()
    refused: list[str] = []
    for place in range(0, len(content), 3):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        try:
            found = read_arrays(path)
        except Damaged as error:
            refused.append(str(error))
        else:
            assert all(np.array_equal(found[name], ARRAYS[name]) for name in found)
    assert len(refused) > len(content) // 5
    assert all(re.fullmatch(r"a\.npz is damaged \(.+\)", line) for line in refused)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04."])
def test_what_is_no_file_of_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(Damaged, match=r"^a\.npz is damaged \(") as caught:
        read_arrays(tmp_path / "a.npz")
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_objects_are_not_unpickled(tmp_path: Path, kind: str) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'canary')!r}, 'w')",)

    objects = np.array([Payload()], dtype=object)
    if kind == "npz":
        np.savez(tmp_path / "a.npz", x=objects)
    else:
        with open(tmp_path / "a.npz", "wb") as file:
            np.save(file, objects)
    with pytest.raises(Damaged, match=r"\(an array of objects\)$") as caught:
        read_arrays(tmp_path / "a.npz")
    assert "allow_pickle" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


def test_a_missing_file_and_a_server_that_is_away_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "a.npz")

    def stale(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(module.np, "load", stale)
    with pytest.raises(OSError, match="Stale"):
        read_arrays(tmp_path / "a.npz")
