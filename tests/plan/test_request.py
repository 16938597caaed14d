"""Folders that a command can use, and what is said of others before anything starts."""

import os
from pathlib import Path

import pytest

from meanflow_tune.plan.request import EXIT_UNUSABLE, LONGEST_PATH, UserError, usable_folder


@pytest.mark.parametrize("name", ["a?b", "50%41", "a#b", "two words", "größe", "x" * 255])
def test_folders_of_any_readable_name(tmp_path: Path, name: str) -> None:
    assert usable_folder(tmp_path / name).is_dir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("two\nlines", "its name contains a control character, such as a line break"),
        (os.fsdecode(b"latin-\xe9"), "its name is not UTF-8, as JSON and databases need"),
        ("long/" * 120, f"bytes, of which SQLite and the files in it allow {LONGEST_PATH}"),
    ],
)
def test_folders_whose_name_some_file_format_cannot_hold(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        usable_folder(tmp_path / name)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    str(caught.value).encode()
    assert str(caught.value).startswith("--storage ")
    assert caught.value.status == EXIT_UNUSABLE
    assert not list(tmp_path.iterdir())
