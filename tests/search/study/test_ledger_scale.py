"""What a search costs must not grow with its trials: counted, not timed."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers._tpe import sampler as optuna_tpe

from meanflow_tune.search.errors import StorageError
from meanflow_tune.search.pruning import pruner
from meanflow_tune.search.pruning.rules import Rungs
from meanflow_tune.search.samplers import modelled, tpe
from meanflow_tune.search.store import storage
from meanflow_tune.search.store.changes import StudyTrials
from meanflow_tune.search.store.storage import (
    JOURNAL_NAME,
    UNSYNCED_BYTES,
    open_storage,
    repair_journal,
)
from meanflow_tune.search.store.trials import TrialCache, best_record
from meanflow_tune.search.study import ledger
from tests.support.rungs import make_rungs
from tests.support.studies import NAME, RUNGS, allow, make_ledger, outcome_of, run_all, run_job

PROMOTING = make_rungs(reduction=2.0, min_peers=2, promotion=True)


@contextmanager
def counted(patch: pytest.MonkeyPatch, *places: tuple[Any, str]) -> Iterator[Counter[str]]:
    """How often functions are called."""
    calls: Counter[str] = Counter()

    def count(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            return call(*given, **named)

        return counting

    with patch.context() as context:
        for module, name in places:
            context.setattr(module, name, count(name, getattr(module, name)))
        yield calls


@pytest.mark.parametrize("stored", [6, 30])
def test_an_event_reads_the_trials_that_changed_only(
    stored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused trials count: half of a search with promotion is never told before its end."""
    with counted(monkeypatch, (ledger, "to_record"), (pruner, "stored_reports")) as calls:
        book = make_ledger(tmp_path, rungs=PROMOTING, sampler="random", total=stored + 1)
        for _ in range(stored):
            job = book.next()
            assert job is not None
            run_job(book, job)
        book.records()
        assert calls["to_record"] >= stored
        calls.clear()
        job = book.next()
        assert job is not None
        for _ in range(5):  # what the live view reads every second
            book.records()
            best_record(book.records())
        run_job(book, job)
        book.records()
    # Once for each state in which somebody looked at the one trial that changed.
    assert calls["to_record"] <= 2
    assert calls["stored_reports"] <= 2 * len(RUNGS) + 2


@pytest.mark.parametrize("stored", [2, 20])
def test_one_sync_of_the_journal_for_each_call(
    stored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ask of four parameters is eight lines or more, and a sync of a disk takes milliseconds."""
    book = make_ledger(tmp_path, rungs=None, sampler="random", total=stored + 1)
    for _ in range(stored):
        job = book.next()
        assert job is not None
        run_job(book, job)
    with counted(monkeypatch, (os, "fsync")) as calls:
        job = book.next()
        assert job is not None
        run_job(book, job)
    dead = job.config["kind"] == "dead"  # diverges behind its first report
    assert calls["fsync"] == 2 + (1 if dead else len(RUNGS))


@pytest.mark.parametrize("rungs", [PROMOTING, make_rungs(kind="median")])
@pytest.mark.parametrize("stored", [24, 72])
def test_the_work_of_a_trial_is_bounded(
    stored: int, rungs: Rungs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With TPE: trials read, modelled and split, rows of its tables, and bytes written."""
    monkeypatch.setattr(modelled, "NEWEST", 16)
    work: Counter[str] = Counter()
    update, rows, split = StudyTrials.update, tpe._Table.rows, optuna_tpe._split_trials

    def counted_update(self: StudyTrials) -> Any:
        changed = update(self)
        work["changed"] += len(changed)
        return changed

    def counted_rows(self: Any, trials: Any) -> Any:
        found = rows(self, trials)
        work["asks of a group"] += 1
        work["rows"] = max(work["rows"], *map(len, found.values()))
        return found

    def counted_split(study: Any, trials: Any, below: int) -> Any:
        work["split"] += len(trials)
        return split(study, trials, below)

    def no_full_reading(*_: Any, **__: Any) -> Any:
        raise AssertionError("all trials are read")

    book = make_ledger(tmp_path, rungs=rungs, sampler="tpe", total=stored + 2)
    feed = book.record_feed()
    for _ in range(stored):
        job = book.next()
        assert job is not None
        run_job(book, job)
    feed.update()
    journal = tmp_path / JOURNAL_NAME
    before = journal.stat().st_size
    monkeypatch.setattr(StudyTrials, "update", counted_update)
    monkeypatch.setattr(tpe._Table, "rows", counted_rows)
    monkeypatch.setattr(optuna_tpe, "_split_trials", counted_split)
    monkeypatch.setattr(storage.StudyJournal, "get_all_trials", no_full_reading)
    job = book.next()
    assert job is not None
    run_job(book, job)
    assert [record.number for record in feed.update()] == [job.number]
    assert not book.exhausted()
    # The readers (index, sampler, records) learn of each step of the one trial that changes.
    assert work["changed"] <= 3 * (len(RUNGS) + 4)
    new = not job.attempt  # a promotion asks for nothing
    assert work["split"] <= new * (16 + 2 + 1)
    assert work["rows"] <= 16 + 2 + 1
    assert work["asks of a group"] <= new * 2 * 4
    assert journal.stat().st_size - before < 6000


def test_a_study_is_read_once_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(make_ledger(tmp_path))
    lines = len((tmp_path / JOURNAL_NAME).read_bytes().splitlines())
    with counted(monkeypatch, (storage, "parse_line")) as calls:
        open_storage(tmp_path / JOURNAL_NAME, allow)
    # Of the end, which alone can be torn, one line more.
    assert calls["parse_line"] == lines + 1


@pytest.mark.parametrize("kind", ["journal", "memory", "database"])
def test_a_storage_puts_another_object_in_the_place_of_a_trial_that_changes(
    kind: str, tmp_path: Path
) -> None:
    """What `TrialCache` rests on."""
    if kind == "memory":
        made: Any = optuna.storages.InMemoryStorage()
    else:
        where = tmp_path / JOURNAL_NAME if kind == "journal" else f"sqlite:///{tmp_path}/x.db"
        made = open_storage(where, allow)
    study = optuna.create_study(storage=made, study_name=NAME)
    trial = study.ask()
    seen: list[int] = []
    kept = TrialCache(lambda trial: seen.append(trial.number) or len(trial.user_attrs))

    def look() -> int:
        return kept(made.get_all_trials(study._study_id, deepcopy=False)[0])

    assert look() == 0
    trial.set_user_attr("config", 1)
    assert look() == 1
    trial.set_user_attr("attempt", 0)
    trial.set_user_attr("attempt", 1)
    assert look() == 2
    trial.report(1.0, 1)
    look()
    study.tell(trial, 1.0)
    before = len(seen)
    assert look() == look() == 2
    assert before < len(seen) <= before + 1


def test_lines_of_a_batch_are_in_the_file_at_once_and_synced_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_storage(tmp_path / JOURNAL_NAME, allow)
    assert isinstance(made, storage.StudyJournal)
    study = optuna.create_study(storage=made, study_name=NAME)
    with counted(monkeypatch, (os, "fsync")) as calls, made.batch():
        number = made.create_new_trial(study._study_id)
        made.set_trial_user_attr(number, "a", 1)
        assert (tmp_path / JOURNAL_NAME).read_text().count("\n") == 3
        assert calls["fsync"] == 0
        # Another thread does not wait for the end of this one's call.
        other = threading.Thread(target=made.set_trial_user_attr, args=(number, "b", 2))
        other.start()
        other.join()
        assert calls["fsync"] == 1
        made.set_trial_user_attr(number, "c", "x" * UNSYNCED_BYTES)
        assert calls["fsync"] == 2, "no more than this may be lost in a power cut"
        made.set_trial_user_attr(number, "d", 4)
    assert calls["fsync"] == 3


def test_what_a_failed_sync_left_unwritten_comes_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_all(make_ledger(tmp_path / "whole"))
    book = make_ledger(tmp_path)
    journal = tmp_path / JOURNAL_NAME
    failures = 0

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    def insist(call: Callable[[], Any]) -> Any:
        """Call once with a full disk and once more without."""
        nonlocal failures
        before = journal.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(StorageError, match="free some space"):
                call()
        assert journal.read_bytes() == before
        failures += 1
        return call()

    class Full:
        """A ledger whose every write fails the first time."""

        def record(self, *given: Any) -> Any:
            return insist(lambda: book.record(*given))

        def finish(self, *given: Any) -> Any:
            return insist(lambda: book.finish(*given))

    for _ in range(4):
        job = insist(book.next)
        assert job is not None
        run_job(Full(), job)  # type: ignore[arg-type]
    assert failures > 12
    run_all(make_ledger(tmp_path))
    assert outcome_of(tmp_path) == outcome_of(tmp_path / "whole")


def test_zeros_of_a_power_cut_are_cut_with_what_follows_them(tmp_path: Path) -> None:
    """Pages of lines that were never synced may reach the disk in any order."""
    run_all(make_ledger(tmp_path))
    journal = tmp_path / JOURNAL_NAME
    sound = journal.read_bytes()
    lines = sound.splitlines(keepends=True)
    ends = b"".join(lines[-3:])
    journal.write_bytes(sound + b'{"op_code":8,"wor' + bytes(100) + b'"}\n' + ends)
    copy = repair_journal(journal)
    assert copy is not None
    assert journal.read_bytes() == sound
    # Further back they are damage of another kind, of lines that somebody was told of.
    many = lines * (UNSYNCED_BYTES // len(sound) + 2)
    damaged = b"".join([lines[0], bytes(40) + b"\n", *many])
    journal.write_bytes(damaged)
    with pytest.raises(StorageError, match="line 2 of"):
        open_storage(journal, allow)
    assert journal.read_bytes() == damaged
