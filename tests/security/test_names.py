"""Names cannot leave the storage folder, wherever they come from."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.driver.handling.deletion import delete_study
from meanflow_tune.files import is_below
from meanflow_tune.plan.request import UserError
from meanflow_tune.records import Report
from meanflow_tune.report.result_files import with_pictures
from meanflow_tune.sampling import StudentError
from meanflow_tune.sampling.student_sources import load_student
from meanflow_tune.search.errors import StudyChanged
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import read_records, trial_folder
from meanflow_tune.search.study.import_trials import find_origin
from tests.support.page.stored_page_study import store_study
from tests.support.records import build_record

OUTSIDE = [
    "..",
    ".",
    "../x",
    "a/b",
    "/etc",
    "a/../../x",
    ".hidden",
    "a\\b",
    "a\0b",
    "a\nb",
    "~",
    "",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_study_is_a_folder_of_the_storage(name: str) -> None:
    with pytest.raises(UserError) as caught:
        search_request(tune_parser().parse_args(["--storage", "/r", f"--study={name}"]))
    assert str(caught.value).startswith("--study")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../evil", "a/b", "os;x", ".."])
def test_a_space_gives_no_study_another_folder(name: str) -> None:
    """A study is named after its space, unless it has a name of its own."""
    words = ["--storage", "/r", f"--space={name}"]
    if name in ("..", "os;x"):
        with pytest.raises(UserError, match=r"^--study: must start with a letter or digit"):
            search_request(tune_parser().parse_args(words))
        return
    request = search_request(tune_parser().parse_args(words))
    assert request.folder.parent == Path("/r")
    assert is_below(request.folder, Path("/r"))


@pytest.mark.parametrize("name", ["..", ".", ""])
def test_an_import_names_a_study(name: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(StudyChanged, match="there is no study folder") as caught:
        find_origin(name, tmp_path / "runs")
    assert "\n" not in str(caught.value)


def test_an_import_may_name_a_folder_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "old" / "s").mkdir(parents=True)
    assert find_origin(str(tmp_path / "old" / "s"), tmp_path) == tmp_path / "old" / "s"


def test_a_trial_is_in_the_folder_of_its_number(tmp_path: Path) -> None:
    """Folders follow from numbers; what a study's attributes say of files is kept inside of them."""
    folder = store_study(tmp_path, "read", trials=2)
    text = (folder / JOURNAL_NAME).read_text()
    for name in ("/etc/passwd", "/x/trials/00000/../../../../../etc/passwd", "../../secret.npz"):
        lines = []
        for line in text.splitlines():
            data: dict[str, Any] = json.loads(line)
            for value in (data.get("user_attr") or {}).values():
                if isinstance(value, dict) and "report" in value:
                    value["report"]["artifacts"] = {"samples": name, "curve": name}
                    value["folder"] = "/etc"
            lines.append(json.dumps(data))
        (folder / JOURNAL_NAME).write_text("\n".join(lines) + "\n")
        records = read_records(open_storage(folder / JOURNAL_NAME), "read", folder)
        assert [record.folder for record in records] == [
            str(trial_folder(folder, number)) for number in (0, 1)
        ]
        reports = [report for record in records for report in record.reports]
        assert reports
        assert all(not report.artifacts for report in reports)


def test_a_picture_is_drawn_next_to_its_samples(tmp_path: Path) -> None:
    """The names of the arrays in a file of samples are part of the names of pictures."""
    path = tmp_path / "trial" / "samples" / "1.npz"
    path.parent.mkdir(parents=True)
    points = np.zeros((4, 2))
    np.savez(path, **{"student@1": points, "student@../../../x": points, "student@/tmp/x": points})
    report = Report(1, {}, {}, 0.0, {"samples": str(path)})
    drawn = with_pictures(build_record(0, "completed", report), report)
    assert set(drawn.artifacts) == {"samples", "samples_nfe_1"}
    assert sorted(each.name for each in path.parent.iterdir()) == ["1-nfe1.png", "1.npz"]
    assert not (tmp_path / "x.png").exists()


def test_best_json_names_no_folder(tmp_path: Path) -> None:
    """The leader is found by its configuration among the trials, not by a path in the file."""
    (tmp_path / "trials").mkdir()
    (tmp_path / "best.json").write_text(json.dumps({"folder": "/etc", "trial": "../../x"}))
    with pytest.raises(StudentError, match="not a configuration") as caught:
        load_student(tmp_path / "best.json")
    assert "\n" not in str(caught.value)


def test_a_link_is_not_deleted_through(tmp_path: Path) -> None:
    other = store_study(tmp_path / "other", "real", trials=2)
    storage = tmp_path / "runs"
    storage.mkdir()
    (storage / "linked").symlink_to(other)
    words = ["--storage", str(storage), "--study", "linked", "--delete-study", "--yes"]
    request = search_request(tune_parser().parse_args(words))
    with pytest.raises(
        UserError, match=r"is a symbolic link to .*real, and what it leads to is not"
    ):
        delete_study(request, yes=True, keep_mlflow=True)
    assert (other / JOURNAL_NAME).exists()
    assert (storage / "linked").is_symlink()


def test_links_and_dots_are_followed_before_a_path_counts_as_inside(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    assert is_below(inside / "a" / "b", inside)
    assert is_below(inside / "link" / "a", inside, outside)
    assert not is_below(inside / "link" / "a", inside)
    assert not is_below(inside / ".." / "out", inside)
    assert not is_below(f"{inside}-2/a", inside)
    shutil.rmtree(outside)
    assert os.path.lexists(inside / "link")
