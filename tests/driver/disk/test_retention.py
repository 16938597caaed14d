"""Which checkpoints and samples of ended trials stay on disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from meanflow_tune.driver import driver
from meanflow_tune.driver.disk.retention import Retention
from meanflow_tune.plan.findings import Findings, find
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import Job, Outcome, TrialRecord
from meanflow_tune.search.errors import LeaseLost
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.training.checkpoints import newest_checkpoint, save_checkpoint
from tests.support.confirmation import GAP, SEARCH, SEARCH_SEED, SPACE, record
from tests.support.drivers.made_up import MadeUp, replace_ray
from tests.support.paths import TINY_SPACE


def allow() -> None:
    pass


def made(folder: Path, records: list[TrialRecord]) -> list[TrialRecord]:
    """Each with three checkpoints, samples, and where it completed the exported model."""
    found = []
    for one in records:
        place = folder / "trials" / f"{one.number:05d}"
        for images in (10, 50, 100):
            save_checkpoint(place / "checkpoints", images, {"weight": torch.zeros(3)})
        save_checkpoint(place / "repeats" / "1" / "checkpoints", 100, {"weight": torch.zeros(3)})
        (place / "samples").mkdir()
        (place / "samples" / "000000000100.npz").write_bytes(b"x")
        if one.status == "completed":
            (place / "model").mkdir()
            (place / "model" / "config.json").write_text("{}")
        found.append(replace(one, folder=str(place)))
    return found


def left(records: list[TrialRecord]) -> dict[int, int]:
    """number -> checkpoints that it has."""
    return {one.number: len(list(Path(one.folder).glob("checkpoints/*.pt"))) for one in records}


def retention(folder: Path, fence: Callable[[], None] = allow, **kept: str) -> Retention:
    request = SearchRequest(study="toy", trials=8, storage=folder, **kept)
    return Retention(request, GAP, fence)


def found(folder: Path, records: list[TrialRecord]) -> Findings:
    request = SearchRequest(study="toy", trials=8, storage=folder, seed=SEARCH_SEED)
    return find(Plan(request, SPACE, GAP, lambda trial: {}, (), "", None), records, [])


UNENDED = [record(8, 0.15, status="paused"), record(9, 0.9, status="running")]
# Best first: 5, 7, 4, 2, 1, 0, 3; baselines are 0 to 3, 1 is the reference; 6 was stopped.
BASELINES, UNTOUCHED = {0: 3, 1: 3, 2: 3, 3: 3}, {8: 3, 9: 3}


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", dict.fromkeys(range(10), 3)),
        ("last", BASELINES | {5: 3, 7: 3, 4: 1, 6: 1} | UNTOUCHED),
        ("best:3", BASELINES | {5: 3, 7: 3, 4: 1, 6: 0} | UNTOUCHED),
        ("best:1", BASELINES | {5: 3, 7: 3, 4: 0, 6: 0} | UNTOUCHED),
    ],
)
def test_while_the_search_runs_what_may_still_lead_keeps_everything(
    tmp_path: Path, keep: str, expected: dict[int, int]
) -> None:
    records = made(tmp_path, [*SEARCH, *UNENDED])
    held = retention(tmp_path, keep_checkpoints=keep)
    ended = held.of_stage(lambda: records)
    ended()
    assert left(records) == expected
    for one in records:
        newest = newest_checkpoint(Path(one.folder) / "checkpoints", pytest.fail)
        assert newest is None if expected[one.number] == 0 else newest is not None
        assert newest is None or newest.name == "000000000100.pt"
    ended()
    assert left(records) == expected


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", dict.fromkeys(range(10), 3)),
        ("last", {5: 3, 1: 3, 0: 1, 2: 1, 3: 1, 4: 1, 6: 1, 7: 1} | UNTOUCHED),
        ("best:2", {5: 3, 1: 3, 7: 1, 0: 0, 2: 0, 3: 0, 4: 0, 6: 0} | UNTOUCHED),
    ],
)
def test_at_the_end_the_answer_keeps_everything(
    tmp_path: Path, keep: str, expected: dict[int, int]
) -> None:
    """The leader is also the best proposed trial; 1 is the reference."""
    records = made(tmp_path, [*SEARCH, *UNENDED])
    held = retention(tmp_path, keep_checkpoints=keep)
    held.of_stage(lambda: records)()
    held.search_ended(found(tmp_path, records))
    assert left(records) == expected
    repeats = len(list(tmp_path.glob("trials/00004/repeats/1/checkpoints/*.pt")))
    assert repeats == (0 if keep == "best:2" else 1)


def test_the_only_copy_of_a_completed_student_stays(tmp_path: Path) -> None:
    records = made(tmp_path, SEARCH)
    (Path(records[4].folder) / "model" / "config.json").unlink()
    retention(tmp_path, keep_checkpoints="best:1").search_ended(found(tmp_path, records))
    assert left(records)[4] == 1
    assert left(records)[7] == 0


def test_trials_that_come_one_by_one_leave_what_all_at_once_leave(tmp_path: Path) -> None:
    """Only those that changed are looked at, and those that lost the place for which they were kept."""
    for keep in ("last", "best:1", "best:3"):
        folder = tmp_path / keep.replace(":", "")
        records = made(folder, [*SEARCH, *UNENDED])
        coming: list[TrialRecord] = []
        ended = retention(folder, keep_checkpoints=keep).of_stage(lambda coming=coming: coming)
        for one in sorted(records, key=lambda r: -(r.value or 0.0)):  # each the best so far
            coming[:] = [one]
            ended()
        whole = made(folder / "whole", [*SEARCH, *UNENDED])
        retention(folder / "whole", keep_checkpoints=keep).of_stage(lambda whole=whole: whole)()
        assert left(records) == left(whole)


def test_several_objectives_and_repeats_decide_at_the_end_only(tmp_path: Path) -> None:
    records = made(tmp_path, SEARCH)
    request = SearchRequest(
        study="toy", trials=8, storage=tmp_path, repeats=2, keep_checkpoints="best:1"
    )
    Retention(request, GAP, allow).of_stage(lambda: records)()
    several = request.model_copy(update={"repeats": 0})
    Retention(several, Objectives.parse("gap@1,gap@2"), allow).of_stage(lambda: records)()
    assert left(records) == dict.fromkeys(range(8), 3) | {6: 0}


def test_a_driver_that_was_replaced_removes_nothing(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLost("taken over")

    records = made(tmp_path, SEARCH)
    with pytest.raises(LeaseLost):
        retention(tmp_path, lost, keep_checkpoints="last").of_stage(lambda: records)()
    with pytest.raises(LeaseLost):
        retention(tmp_path, lost, keep_samples="none").search_ended(found(tmp_path, records))
    assert left(records) == dict.fromkeys(range(8), 3)
    assert all((Path(one.folder) / "samples").is_dir() for one in records)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("best:2", [1, 5, 7, 8, 9]),
        ("none", [1, 5, 8, 9]),
    ],
)
def test_samples_of_the_answer_stay(tmp_path: Path, keep: str, expected: list[int]) -> None:
    records = made(tmp_path, [*SEARCH, *UNENDED])
    held = retention(tmp_path, keep_samples=keep)
    held.of_stage(lambda: records)()
    assert len(list(tmp_path.glob("trials/*/samples"))) == 10, "before the end all stay"
    held.search_ended(found(tmp_path, records))
    there = [one.number for one in records if (Path(one.folder) / "samples").is_dir()]
    assert there == expected


@pytest.mark.parametrize(
    ("field", "text", "allowed"),
    [
        ("keep_checkpoints", "none", "all, last or best:N"),
        ("keep_checkpoints", "best:0", "all, last or best:N"),
        ("keep_samples", "last", "all, none or best:N"),
    ],
)
def test_what_the_options_take(tmp_path: Path, field: str, text: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        SearchRequest(study="toy", storage=tmp_path, **{field: text})


class Saving(MadeUp):
    """Trials that leave checkpoints and samples; notes how many checkpoints lie there as each one starts."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.seen = folder, list[int]()

    def train(self, stage: Any, job: Job) -> Outcome:
        stage.background.submit(lambda: None).result()  # what was to be removed is
        self.seen.append(len(list(self.folder.glob("trials/*/checkpoints/*.pt"))))
        place = Path(job.folder)
        for images in (10, 20, 30):
            save_checkpoint(place / "checkpoints", images, {"weight": torch.zeros(1)})
        (place / "samples").mkdir()
        return super().train(stage, job)


@pytest.mark.parametrize("keep", ["all", "last"])
def test_a_search_removes_them_as_its_trials_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    """Six trials, of which the first two are baselines and the last is the best."""
    made_up = Saving(tmp_path / "s")
    replace_ray(monkeypatch, made_up)
    request = SearchRequest(
        space=str(TINY_SPACE),
        study="s",
        trials=6,
        storage=tmp_path,
        scheduler="none",
        confirm=0,
        keep_checkpoints=keep,
        keep_samples="all" if keep == "all" else "none",
    )
    assert driver.run(request, "again", quiet=True) == 0
    there = [len(list(tmp_path.glob(f"s/trials/{n:05d}/checkpoints/*.pt"))) for n in range(6)]
    samples = sorted(int(path.parent.name) for path in tmp_path.glob("s/trials/*/samples"))
    if keep == "all":
        assert made_up.seen == [0, 3, 6, 9, 12, 15]
        assert there == [3] * 6
        assert samples == list(range(6))
    else:
        assert made_up.seen == [0, 3, 6, 9, 12, 13], "of 2, 3 and 4, the best two keep all"
        assert there == [1, 3, 1, 1, 1, 3], "the reference and the leader"
        assert samples == [1, 5]
