"""What an audit finds missing: compared by hand-made runs, and against a real database."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meanflow_tune.records import Job, Outcome
from meanflow_tune.tracking.audit import EVENTS_TAG, compare, receipt
from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Event, Outbox
from meanflow_tune.tracking.replay import Replayer
from tests.support.stories import STUDY, make_record, make_report, small_config, tell

PATIENCE = 120.0


class Run:
    """As MLflow returns it, as far as an audit looks."""

    def __init__(self, number: str, tags: dict[str, str], status: str = "RUNNING") -> None:
        self.info = SimpleNamespace(run_id=number, status=status)
        self.tags, self.params, self.steps = tags, dict[str, str](), dict[str, int]()
        self.outputs = SimpleNamespace(model_outputs=["a model"])

    @property
    def data(self) -> Any:
        metrics = [SimpleNamespace(key=key, step=step) for key, step in self.steps.items()]
        return SimpleNamespace(
            tags=self.tags,
            params=self.params,
            metrics=self.steps,
            to_proto=lambda: SimpleNamespace(metrics=metrics),
        )


def events(outbox: Outbox) -> list[Event]:
    return list(outbox.events(10**12))


@pytest.fixture
def told(tmp_path: Path) -> tuple[list[Event], dict[str, Run]]:
    """A search with a completed trial and a running one, and the runs that MLflow should have."""
    outbox = Outbox(tmp_path)
    tracker = Tracker(outbox, STUDY)
    tracker.search_started({"goal": "g"})
    reports = (make_report(32, 0.5), make_report(64, 0.4))
    runs = {"": Run("0", {"meanflow_tune.search": outbox.uid, "state": "running"})}
    for number, state in enumerate(("completed", "running")):
        job = Job(STUDY, number, {"seed": 1}, "/nowhere", 0, 1)
        tracker.trial_started(job, make_record(number))
        for count in (1, 2):
            record = make_record(number, "running", reports[:count])
            tracker.reported(record, reports[count - 1])
        tags = {"meanflow_tune.trial": f"{outbox.uid}/{number}", "state": state}
        run = Run(f"{number + 1}", tags | {"mlflow.parentRunId": "0"})
        run.params = {"seed": "1"} | {f"param/{name}": "" for name in make_record(number).params}
        names = ("teacher_gap/nfe_1", "teacher_gap/nfe_4", "loss/backward", "objective")
        run.steps = dict.fromkeys((*names, "cost/cpu_seconds", "cost/step_ms"), 64)
        runs[str(number)] = run
    model = tmp_path / "model"
    tracker.ended(make_record(0, "completed", reports), Outcome("completed"), model)
    runs["0"].info.status = "FINISHED"
    every = events(outbox)
    for name, run in runs.items():
        mine = [receipt(event) for event in every if event.payload.get("trial", "") == name]
        run.tags[EVENTS_TAG] = " ".join(mine)
    return every, runs


def missing(told: tuple[list[Event], dict[str, Run]], refused: tuple[int, ...] = ()) -> list[str]:
    found = compare(told[0], told[1].values(), refused)
    assert bool(found.note) == bool([e for e in found.events if e.seq not in refused])
    return [f"{event.payload.get('trial', '')}:{event.kind}" for event in found.events]


STARTED = ["trial_started", "reported", "reported"]
FIRST = [f"0:{kind}" for kind in (*STARTED, "trial_ended", "model_exported")]


def test_a_whole_tree_lacks_nothing(told: tuple[list[Event], dict[str, Run]]) -> None:
    assert missing(told) == []


def drop_receipt(run: Run) -> None:
    run.tags[EVENTS_TAG] = run.tags[EVENTS_TAG].rpartition(" ")[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: run.params.pop("seed"),
        lambda run: run.params.clear(),
        lambda run: run.steps.pop("objective"),
        lambda run: run.steps.update({"teacher_gap/nfe_1": 32}),
        lambda run: run.tags.update(state="running"),
        lambda run: run.tags.pop(EVENTS_TAG),
        lambda run: run.tags.update({"mlflow.parentRunId": "of another search"}),
        lambda run: setattr(run.info, "status", "RUNNING"),
        lambda run: run.outputs.model_outputs.clear(),
        drop_receipt,
    ],
)
def test_a_run_that_lacks_anything_is_put_again(
    told: tuple[list[Event], dict[str, Run]], damage: Callable[[Run], object]
) -> None:
    damage(told[1]["0"])
    assert missing(told) == FIRST


def test_missing_runs_are_put_again_and_all_below_a_missing_search(
    told: tuple[list[Event], dict[str, Run]],
) -> None:
    del told[1]["0"]
    assert missing(told) == FIRST
    assert compare(*told_of(told), ()).note == (
        "MLflow: 1 of 3 runs of this study are missing; they are sent again"
    )
    del told[1][""]
    assert len(missing(told)) == len(told[0])


def told_of(told: tuple[list[Event], dict[str, Run]]) -> tuple[list[Event], list[Run]]:
    return told[0], list(told[1].values())


def test_a_doubled_empty_run_hides_nothing(told: tuple[list[Event], dict[str, Run]]) -> None:
    empty = Run("9", {"meanflow_tune.trial": told[1]["0"].tags["meanflow_tune.trial"]})
    told[1]["double"] = empty
    assert missing(told) == []


def test_only_the_refused_event_of_a_run_is_tried_again_and_without_a_word(
    told: tuple[list[Event], dict[str, Run]],
) -> None:
    drop_receipt(told[1]["0"])
    last = told[0][-1]
    told[1]["0"].tags["state"] = "running"
    assert missing(told, (last.seq,)) == ["0:model_exported"]


def test_the_last_settlement_follows_what_is_put_again(
    told: tuple[list[Event], dict[str, Run]], tmp_path: Path
) -> None:
    outbox = Outbox(tmp_path)
    tracker = Tracker(outbox, STUDY)
    reports = (make_report(32, 0.5), make_report(64, 0.4))
    for _ in range(2):
        tracker.settled([make_record(0, "failed", reports)])
    every = events(outbox), told[1]
    assert missing(every) == [*FIRST, ":trials_settled"]
    told[1]["0"].tags["state"] = "failed"
    assert missing(every) == []


def test_an_audit_of_a_thousand_trials_is_cheap(tmp_path: Path) -> None:
    """Comparing takes far less than the page of runs that it reads."""
    uid, config = "u", small_config()
    every: list[Event] = []
    for number in range(1000):
        p = {"uid": uid, "trial": str(number), "config": config, "params": {}}
        key = f"{number}/attempt/0"
        every.append(Event(number, "trial_started", 0.0, p, 0, key))
    runs = [Run(str(n), {"meanflow_tune.trial": f"{uid}/{n}"}) for n in range(1000)]
    began = time.process_time()
    assert len(compare(every, runs, ()).events) == 1000
    assert time.process_time() - began < 5


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage folder with a database that holds the whole of a search."""
    folder = tmp_path_factory.mktemp("filled")
    outbox = Outbox(folder / "study")
    tell(Tracker(outbox, STUDY), folder / "files")
    with Replayer(outbox, MlflowSink(folder)) as replayer:
        assert replayer.drain(PATIENCE) == 0
        assert replayer.status().rejected == 0
    return folder


@contextmanager
def changed(storage: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(storage / "mlflow.db", timeout=60)) as connection, connection:
        yield connection


@pytest.mark.slow
def test_what_disappears_from_a_real_database_comes_back(filled: Path) -> None:
    def resumed() -> list[str]:
        said: list[str] = []
        outbox = Outbox(filled / "study")
        with Replayer(outbox, MlflowSink(filled), say=said.append) as replayer:
            assert replayer.drain(PATIENCE) == 0
            assert replayer.status().rejected == 0
        outbox.close()
        return said

    def content() -> list[tuple[Any, ...]]:
        with changed(filled) as connection:
            return [
                row
                for table in ("params", "metrics")
                for row in connection.execute(
                    f"SELECT t.key, t.value, r.name FROM {table} t JOIN runs r USING (run_uuid)"
                    " WHERE r.lifecycle_stage = 'active' ORDER BY 3, 1, 2"
                )
            ]

    assert resumed() == []
    before = content()
    of_trial = "run_uuid IN (SELECT run_uuid FROM runs WHERE name LIKE 'trial%')"
    for statement, note in (
        (f"DELETE FROM params WHERE key LIKE 'model%' AND {of_trial}", "2 of 4 are incomplete"),
        (f"DELETE FROM tags WHERE key = 'state' AND {of_trial}", "2 of 4 are incomplete"),
        ("DELETE FROM metrics; DELETE FROM latest_metrics", "2 of 4 are incomplete"),
        ("UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = 'trial 00001'", "1 of 4 runs"),
        (f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE name = '{STUDY}'", "1 of 4 runs"),
    ):
        with changed(filled) as connection:
            for part in statement.split(";"):
                assert connection.execute(part).rowcount > 0
        (line,) = resumed()
        assert note in line, (statement, line)
        assert resumed() == [], statement
        assert content() == before, statement


@pytest.mark.slow
def test_an_audit_makes_no_call_per_run(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(filled / "study")
    sink = MlflowSink(filled)
    calls: list[str] = []

    class Counting:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            calls.append(name)
            return getattr(self.inner, name)

    sink._connected = Counting(sink._client())  # type: ignore[assignment]
    assert sink.audit(outbox.events(10**12), ()).events == []
    assert calls == ["search_experiments", "search_runs"]
