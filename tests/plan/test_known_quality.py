"""Of ten thousand files of samples a status reads some per write, and each once."""

from dataclasses import replace
from pathlib import Path

from meanflow_tune.plan.known_quality import LOOKS, KnownQuality
from meanflow_tune.plan.quality import NOISE, Quality
from meanflow_tune.records import TrialRecord
from tests.support.records import record, with_samples

HELD_OUT = {"noise": {"w": 9.0}, "data": {"w": 1.0}}


class Looks:
    """Counts the looks at each trial's file; those of `missing` trials are not there."""

    def __init__(self, missing: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.of: list[int] = []
        self.missing = set(missing)

    def __call__(self, trial: TrialRecord) -> Quality:
        self.of.append(trial.number)
        return Quality() if trial.number in self.missing else Quality({}, HELD_OUT, (1,))


def trial(number: int, path: str = "x.npz") -> TrialRecord:
    made = record(number, "completed", 1.0)
    return replace(made, reports=(replace(made.reports[-1], artifacts={"samples": path}),))


def test_each_file_is_read_once_and_some_per_write() -> None:
    looks = Looks()
    known = KnownQuality(looks)
    trials = [trial(n) for n in range(3 * LOOKS + 5)]
    for count in (LOOKS, 2 * LOOKS, 3 * LOOKS, len(trials), len(trials)):
        known.update(trials)
        assert len(looks.of) == count
    # The newest first.
    assert looks.of == [made.number for made in reversed(trials)]
    assert all(known.limits(made)[NOISE] == {"w@1": 9.0} for made in trials)
    assert len(looks.of) == len(trials)
    assert known.any.held_out == HELD_OUT


def test_at_the_end_all_are_read() -> None:
    looks = Looks()
    known = KnownQuality(looks)
    trials = [trial(n) for n in range(2 * LOOKS)]
    assert known.limits(trials[0]) == {}
    known.update(trials, all_files=True)
    assert len(looks.of) == 2 * LOOKS


def test_what_is_not_there_is_looked_for_ever_less_often() -> None:
    looks = Looks({0})
    known = KnownQuality(looks)
    for _ in range(1000):
        known.update([trial(0), trial(1)])
    assert looks.of.count(1) == 1
    assert 5 <= looks.of.count(0) <= 10
    looks.missing.clear()
    for _ in range(1030):
        known.update([trial(0)])
    assert known.limits(trial(0))


def test_a_trial_that_trains_on_is_looked_at_again() -> None:
    looks = Looks()
    known = KnownQuality(looks)
    for path in ("a.npz", "a.npz", "b.npz"):
        known.update([trial(0, path), record(1, "running", None)])
    assert looks.of == [0, 0]


def test_real_files(tmp_path: Path) -> None:
    known = KnownQuality()
    made = with_samples(record(0, "completed", 1.0), tmp_path / "x.npz", {}, HELD_OUT, (1,))
    known.update([made])
    assert known.limits(made)[NOISE] == {"w@1": 9.0}
