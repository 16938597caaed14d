"""What a search leaves of Ray Tune's files, without Ray."""

from pathlib import Path

from meanflow_tune.cluster.tuner import remove_leftovers


def test_files_of_killed_drivers_of_this_search_alone_are_removed(tmp_path: Path) -> None:
    """Other searches share the folder, whose names may begin with that of this one."""
    mine = ["digits-0123abcd", "digits-ffffffff"]
    others = [
        "digits+confirm-0123abcd",
        "digits-0123abcd-0123abcd",
        "digits-two-0123abcd",
        "digits",
    ]
    for name in (*mine, *others):
        (tmp_path / name / "trial").mkdir(parents=True)
    remove_leftovers(tmp_path, "digits")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    remove_leftovers(tmp_path / "missing", "digits")
