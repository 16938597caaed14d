"""The benchmark of a search's overhead, with tiny sizes; no time is asserted."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.overhead import trials
from benchmarks.overhead.bookkeeping import STUDY, resume, simulate
from benchmarks.overhead.copies import multiply
from benchmarks.overhead.processes import Family
from benchmarks.overhead.short_space import BASELINES, METRIC
from benchmarks.overhead.sides_run import Figures, measure
from benchmarks.overhead.tables import SIDES, bookkeeping_table, resume_table, sides_table
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import read_records
from meanflow_tune.tracking.outbox import Outbox
from scripts.benchmark import main


def quiet(line: str) -> None: ...


def request(folder: Path, count: int) -> SearchRequest:
    return SearchRequest(
        study=STUDY, trials=count, storage=folder, confirm=0, confirm_seeds=0, promotion=False
    )


def test_bookkeeping_of_simulated_trials(tmp_path: Path) -> None:
    found = simulate(request(tmp_path, 9), quiet)
    assert set(found.seconds) == set(found.processor) == set(range(9))
    assert sum(found.statuses.values()) == 9
    # Six baselines of 5 s run through, and of the others some were stopped.
    assert 6 * 5.0 < found.trained <= 9 * 5.0
    summary = found.summary()
    assert summary["edge"] == 4
    assert summary["seconds mean"] == pytest.approx(sum(found.seconds.values()) / 9)
    assert summary["share"] == pytest.approx(summary["seconds mean"] / 5.0)
    status = json.loads((tmp_path / STUDY / "status.json").read_text())
    assert status["total"] == 9
    assert "9 trials of simulated 5 s" in bookkeeping_table(summary)


def test_a_resume_of_copied_trials_goes_the_way_of_the_driver(tmp_path: Path) -> None:
    simulate(request(tmp_path, 9), quiet)
    folder = tmp_path / STUDY
    own = read_records(open_storage(folder / JOURNAL_NAME), STUDY, folder)
    multiply(folder, 30)
    records = read_records(open_storage(folder / JOURNAL_NAME), STUDY, folder)
    assert [record.number for record in records] == list(range(30))
    assert all(record.status in ("completed", "pruned") for record in records)
    for record, copy in zip(own, records, strict=False):
        assert (record.params, record.values) == (copy.params, copy.values)
    assert sum(record.baseline is not None for record in records) == 6
    rates = {record.params["optimizer/learning_rate"] for record in records[9:]}
    assert len(rates) == 21
    assert all(1e-3 <= rate <= 1e-2 for rate in rates)
    with pytest.raises(ValueError, match="ask for more trials"):
        resume(request(tmp_path, 30))
    outbox = Outbox(folder)
    told = outbox.written
    for record in records:
        assert outbox.has(f"{STUDY}/{record.number}/ended")
    outbox.close()
    seconds, processor = resume(request(tmp_path, 31))
    steps = ["lease", "journal", "manifest", "ledger", "outbox", "catch up", "first suggestion"]
    assert list(processor) == steps
    assert list(seconds) == [*steps, "total"]
    assert seconds["total"] == pytest.approx(sum(list(seconds.values())[:-1]), rel=0.05)
    # Nothing was sent again: two events, the resumed search and its new trial.
    assert Outbox(folder).written == told + 2
    assert "31" in resume_table(31, 1.0, seconds, processor)


@pytest.mark.slow
def test_commands_print_and_keep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "figures.json"
    assert main(["search", "--bookkeeping", "8", "--resume", "12", "--json", str(figures)]) == 0
    printed = capsys.readouterr().out
    assert "$ python scripts/benchmark.py search --bookkeeping 8 --resume 12" in printed
    assert "last / first" in printed
    assert "first suggestion" in printed
    data = json.loads(figures.read_text())
    assert data["bookkeeping"]["trials"] == 8
    assert data["resume"]["stored"] == 12


def test_command_refuses_before_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "--json", str(tmp_path / "none" / "x.json")]) == 2
    output = capsys.readouterr()
    assert "there is no folder" in output.err
    assert output.out == ""
    for wrong in (["--trials", "0"], ["--sides", "theirs"], ["--resume", "-1"]):
        with pytest.raises(SystemExit):
            main(["search", *wrong])


def test_table_of_sides() -> None:
    found = [
        Figures("ours-2", "short", start=30.0, seconds=[0.4, 0.2, 0.3], processor=0.5, useful=0.75),
        Figures("trainer-2", "short", start=31.0, seconds=[12.0, 15.0, 18.0]),
        Figures("tune", "short", note="no trial ended for 5 s after 0 of 4"),
    ]
    text = sides_table(found)
    lines = {line[:40].strip(): line[40:].split() for line in text.splitlines()}
    ours = lines[SIDES["ours-2"]]
    assert ours == ["30.0", "0.300", "0.300", "0.50", "75", "%", "3"]
    assert lines[SIDES["trainer-2"]][3] == "?"
    assert "median of trainer-2 / median of ours-2: 50.0" in text
    assert "trainer-1" not in text
    assert "after 0 of 4" in text
    assert math.isnan(found[2].median)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_processor_time_of_a_family_counts_those_whose_parent_has_ended(tmp_path: Path) -> None:
    """Ray's processes are nobody's children for long, and wait for none of theirs."""
    work = (
        "import time, sys, pathlib\n"
        "end = time.process_time() + 0.5\n"
        "while time.process_time() < end: pass\n"
        f"pathlib.Path({str(tmp_path)!r}, 'done').touch(); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {work!r}]); sys.stdin.read()"
    )
    starter = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
    with Family(starter.pid) as family:
        while len(family.alive) < 2:  # until the child was seen below its parent
            time.sleep(0.05)
        starter.communicate(b"")
        assert starter.returncode == 0
        while not (tmp_path / "done").exists():
            time.sleep(0.05)
        seconds = family.seconds()
        assert seconds is not None
        assert seconds >= 0.5
        left = set(family.alive)
        assert left
    while any(_runs(pid) for pid in left):  # until the test's own limit
        time.sleep(0.05)


def test_all_sides_report_alike(tmp_path: Path) -> None:
    """A trivial trial of ours says what those of the others say."""
    config = trials.config_of(BASELINES["plain"])
    reporter = trials.Collected()
    outcome = trials.run_trivial(trials.job_of(config, tmp_path), 0, 1, "cpu", reporter)
    assert outcome.status == "completed"
    assert [report.images for report in reporter.reports] == trials.rung_images(config)
    for rung, report in enumerate(reporter.reports, start=1):
        assert trials.told(report) == {"gap": trials.gap(config, rung), "training": 0.0}
        assert report.metrics[METRIC] == trials.gap(config, rung)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


@pytest.mark.slow
def test_a_side_that_breaks_off_or_hangs_is_ended_and_said_so(tmp_path: Path) -> None:
    (tmp_path / "optuna.journal").mkdir()
    broken = measure("optuna", "trivial", 1, tmp_path, False, 120, quiet)
    assert broken.note.startswith("broke off after 0 of 2: IsADirectoryError")
    slow = tmp_path / "slow"
    slow.mkdir()
    hung = measure("optuna", "trivial", 1, slow, False, 0.1, quiet)
    assert hung.note == "no trial ended for 0 s after 0 of 2"
    assert hung.seconds == []


@pytest.mark.cluster
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "side, kind", [(side, trials.KINDS[k % 2]) for k, side in enumerate(SIDES)]
)
def test_every_side_runs(side: str, kind: str, tmp_path: Path) -> None:
    """Each side with one kind of trials, ours and a trainer a trial with both: each takes a minute."""
    found = measure(side, kind, 1, tmp_path, False, 400, quiet)
    assert found.note == ""
    assert len(found.seconds) == 1
    assert found.start > 0
    assert found.processor is not None
    assert found.processor > 0
    assert (found.useful > 0) == (kind == "short")
