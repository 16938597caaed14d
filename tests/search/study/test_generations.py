"""Generations: Optuna refuses the change in place, and nothing of the study is lost by going round."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna import Trial
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from meanflow_tune.records import Outcome, TrialRecord
from meanflow_tune.search.errors import SpaceError, StudyChanged
from meanflow_tune.search.objectives import Objectives, SearchObjective
from meanflow_tune.search.space.distributions import contains, draw_distributions, fit_params
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from meanflow_tune.search.store.trials import IMPORTED_PARAMS, current_name, read_records
from meanflow_tune.search.study.generations import Target, make_generation, reasons
from meanflow_tune.search.study.ledger import Ledger
from tests.support import studies
from tests.support.studies import BASELINES, NAME, OBJECTIVE, allow, make_ledger, run_all, run_job

Suggest = Callable[[Trial], dict[str, Any]]


def with_choices(*kinds: str, logarithmic: bool = False) -> Suggest:
    """The toy space with other choices of `kind`, and a scale of `z`."""

    def suggest(trial: Trial) -> dict[str, Any]:
        x = trial.suggest_float("x", -1.0, 1.0)
        kind = trial.suggest_categorical("kind", kinds)
        rate = trial.suggest_float("rate", 1e-3, 1.0, log=True) if kind == "bent" else 0.0
        z = trial.suggest_float("z", 1e-3 if logarithmic else 0.0, 1.0, log=logarithmic)
        budget = {"images": 100, "global_batch": 10}
        return {"x": x, "kind": kind, "rate": rate, "z": z, "budget": budget}

    return suggest


def target(suggest: Suggest, baselines: Any = BASELINES, objective: Any = OBJECTIVE) -> Target:
    distributions = draw_distributions(suggest, baselines, draws=64)
    return Target(Objectives.of(objective), distributions, suggest, baselines)


def records(storage: BaseStorage) -> list[TrialRecord]:
    return read_records(storage, NAME, Path("study"))


@pytest.fixture
def storage(tmp_path: Path) -> BaseStorage:
    """Six trials of a search of eight, the last one interrupted after its first rung."""
    found = open_storage(tmp_path / JOURNAL_NAME, allow)
    ledger = make_ledger(tmp_path, found)
    for _ in range(5):
        job = ledger.next()
        assert job is not None
        run_job(ledger, job)
    patient = make_ledger(tmp_path, found, rungs=None)
    job = patient.next()
    assert job is not None
    assert patient.record(job.number, studies.report(job.config, 20)).go_on
    return found


def test_stock_optuna_refuses_what_generations_make_possible(storage: BaseStorage) -> None:
    """Changed choices and scales of a parameter under its name: ValueError of an ask (STACK_FACTS)."""
    study = optuna.load_study(study_name=NAME, storage=storage)
    with pytest.raises(ValueError, match="dynamic value space"):
        study.ask({"kind": CategoricalDistribution(["plain", "bent", "dead", "new"])})
    with pytest.raises(ValueError, match="log configuration"):
        study.ask({"z": FloatDistribution(1e-3, 1.0, log=True)})


@pytest.mark.parametrize(
    ("suggest", "reason"),
    [
        (with_choices("plain", "bent", "dead"), None),
        (with_choices("plain", "bent", "dead", "new"), "kind was plain | bent | dead, and is"),
        (with_choices("plain", "bent", "dead", logarithmic=True), "z was 0 to 1, and is"),
    ],
)
def test_only_what_optuna_refuses_needs_a_generation(
    storage: BaseStorage, suggest: Suggest, reason: str | None
) -> None:
    found = reasons(storage, NAME, target(suggest))
    assert len(found) == (reason is not None)
    assert reason is None or found[0].startswith(reason)
    assert (make_generation(storage, NAME, target(suggest)) is None) == (reason is None)


def test_a_new_parameter_and_another_range_go_on_in_place(
    storage: BaseStorage, tmp_path: Path
) -> None:
    def suggest(trial: Trial) -> dict[str, Any]:
        x = trial.suggest_float("x", -2.0, 2.0)
        kind = trial.suggest_categorical("kind", ["plain", "bent", "dead"])
        added = trial.suggest_float("added", 0.0, 1.0)
        return {"x": x, "kind": kind, "rate": added, "z": 0.0, "budget": {"images": 100}}

    assert make_generation(storage, NAME, target(suggest, baselines={})) is None
    run_all(make_ledger(tmp_path, storage, suggest=suggest, baselines={}))
    assert current_name(storage, NAME) == NAME
    assert "added" in records(storage)[-1].params


def test_everything_is_taken_over_under_its_number(storage: BaseStorage, tmp_path: Path) -> None:
    before = records(storage)
    old = storage.get_all_trials(storage.get_study_id_from_name(NAME))
    wider = with_choices("plain", "bent", "dead", "new")
    assert make_generation(storage, NAME, target(wider)) == 2
    assert current_name(storage, NAME) == f"{NAME}@2"
    assert records(storage) == before
    new = storage.get_all_trials(storage.get_study_id_from_name(f"{NAME}@2"))
    for one, other in zip(old, new, strict=True):
        assert (one.number, one.state, one.values) == (other.number, other.state, other.values)
        assert one.params == other.params
        assert one.intermediate_values == other.intermediate_values
        assert one.datetime_start == other.datetime_start
        assert one.constraints.items() <= other.constraints.items()
    kind = new[0].distributions["kind"]
    assert kind == CategoricalDistribution(["plain", "bent", "dead", "new"])
    assert make_generation(storage, NAME, target(wider)) is None  # and that is that
    # The interrupted trial goes on with its configuration, and new ones may take the new choice.
    ledger = make_ledger(tmp_path, storage, suggest=wider, total=40, sampler="random")
    job = ledger.next()
    assert job is not None
    assert (job.number, job.attempt, job.config) == (5, 1, before[5].config)
    run_job(ledger, job)
    run_all(ledger)
    assert "new" in {record.config["kind"] for record in ledger.records()[6:]}
    assert [r.number for r in ledger.records()] == list(range(40))
    assert len(old) == len(storage.get_all_trials(storage.get_study_id_from_name(NAME)))


def test_a_removed_choice_is_kept_beside_and_comes_back(storage: BaseStorage) -> None:
    before = records(storage)
    assert any(record.params["kind"] == "bent" for record in before)
    only = with_choices("plain", "dead")
    baselines = {"plain": BASELINES["plain"]}
    assert make_generation(storage, NAME, target(only, baselines)) == 2
    trials = storage.get_all_trials(storage.get_study_id_from_name(f"{NAME}@2"))
    for trial, record in zip(trials, before, strict=True):
        bent = record.params["kind"] == "bent"
        assert ("kind" in trial.params) != bent
        assert trial.user_attrs.get(IMPORTED_PARAMS, {}).keys() == (
            {"kind", "rate"} if bent else set()
        )
    assert records(storage) == before
    assert make_generation(storage, NAME, target(studies.suggest)) == 3
    assert records(storage) == before
    trials = storage.get_all_trials(storage.get_study_id_from_name(f"{NAME}@3"))
    assert [trial.params for trial in trials] == [record.params for record in before]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("after", [0, 1, 2, 4, 7])
def test_a_kill_while_a_generation_is_made_changes_nothing(
    tmp_path: Path, storage: BaseStorage, after: int
) -> None:
    before, left = records(storage), after

    def fence() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    wider = target(with_choices("plain", "bent", "dead", "new"))
    killed = open_storage(tmp_path / JOURNAL_NAME, fence)
    with pytest.raises(Killed):
        make_generation(killed, NAME, wider)
    again = open_storage(tmp_path / JOURNAL_NAME, allow)
    assert current_name(again, NAME) == NAME
    assert make_generation(again, NAME, wider) == 2
    assert records(again) == before


def test_another_objective_is_computed_from_the_stored_reports(
    storage: BaseStorage, tmp_path: Path
) -> None:
    before = records(storage)
    pair = SearchObjective.parse("mean(gap@1,cost)", direction="maximize")
    with pytest.raises(StudyChanged):
        make_ledger(tmp_path, storage, objectives=pair)
    assert make_generation(storage, NAME, target(studies.suggest, objective=pair)) == 2
    for record, old in zip(records(storage), before, strict=True):
        assert record.reports == old.reports
        last = old.reports[-1]
        assert record.value == pytest.approx((last.metrics["gap@1"] + last.images) / 2)
    study = optuna.load_study(study_name=f"{NAME}@2", storage=storage)
    assert study.direction.name == "MAXIMIZE"
    for trial, record in zip(study.trials, records(storage), strict=True):
        if trial.state == TrialState.COMPLETE:
            assert trial.value == record.value
        images = {report.images for report in record.reports}
        assert trial.intermediate_values.keys() == images


def test_an_objective_that_was_not_measured_is_refused_before_any_write(
    storage: BaseStorage, tmp_path: Path
) -> None:
    journal = (tmp_path / JOURNAL_NAME).read_bytes()
    with pytest.raises(StudyChanged, match=r"trial 0: metric 'gap@9'"):
        make_generation(
            storage,
            NAME,
            target(studies.suggest, objective=SearchObjective.parse("gap@9")),
        )
    assert (tmp_path / JOURNAL_NAME).read_bytes() == journal


def test_a_baseline_in_other_words_stays_and_one_that_means_something_else_runs_anew(
    storage: BaseStorage, tmp_path: Path
) -> None:
    def suggest(trial: Trial) -> dict[str, Any]:
        neutral = trial.suggest_int("neutral", 0, 3)
        config = studies.suggest(trial)
        return config | {"x": config["x"] + neutral}

    baselines = {
        "plain": BASELINES["plain"] | {"neutral": 0},  # gives what it gave
        "bent": BASELINES["bent"] | {"neutral": 1},
    }
    assert make_generation(storage, NAME, target(suggest, baselines)) == 2
    assert [record.baseline for record in records(storage)[:2]] == ["plain", None]
    ledger = make_ledger(tmp_path, storage, suggest=suggest, baselines=baselines)
    run_all(ledger)
    assert [r.baseline for r in ledger.records()] == ["plain", *[None] * 5, "bent", None]


def test_a_trial_that_was_never_asked_for_is_asked_under_the_new_space(tmp_path: Path) -> None:
    def killed(trial: Trial) -> dict[str, Any]:
        if trial.number == 3:
            trial.suggest_float("x", -1.0, 1.0)
            trial.suggest_categorical("kind", ["plain", "bent", "dead"])
            raise Killed
        return studies.suggest(trial)

    storage = open_storage(tmp_path / JOURNAL_NAME, allow)
    with pytest.raises(Killed):
        run_all(make_ledger(tmp_path, storage, suggest=killed))
    wider = with_choices("plain", "bent", "dead", "new")
    assert make_generation(storage, NAME, target(wider)) == 2
    ledger = make_ledger(tmp_path, storage, suggest=wider)
    job = ledger.next()
    assert job is not None
    assert job.number == 3
    run_job(ledger, job)
    run_all(ledger)
    distribution = CategoricalDistribution(["plain", "bent", "dead", "new"])
    stored = storage.get_all_trials(storage.get_study_id_from_name(f"{NAME}@2"))
    assert {trial.distributions["kind"] for trial in stored} == {distribution}


def test_what_the_draws_did_not_show_is_named_when_it_is_asked(
    storage: BaseStorage, tmp_path: Path
) -> None:
    ledger: Ledger = make_ledger(tmp_path, storage, suggest=with_choices("plain", "bent"))
    job = ledger.next()  # the interrupted one
    assert job is not None
    ledger.finish(job.number, Outcome("failed", "gone"))
    with pytest.raises(SpaceError, match=r"dynamic value space.*another name in the space"):
        ledger.next()


def test_which_values_a_law_holds() -> None:
    whole, real = IntDistribution(1, 5), FloatDistribution(1, 5)
    flags, numbers = CategoricalDistribution([False, True]), CategoricalDistribution([0, 1])
    assert [contains(whole, v) for v in (3, 3.0, 2.5, 6, True, "3")] == [True, True] + [False] * 4
    assert [contains(real, v) for v in (3, 2.5, 6, False, None)] == [True, True] + [False] * 3
    assert [contains(flags, v) for v in (True, 1, 0)] == [True, False, False]
    assert [contains(numbers, v) for v in (True, 1, 0)] == [False, True, True]
    fitted = fit_params(
        {"a": 3.0, "b": 9, "c": 1}, {"a": (whole,), "b": (whole, FloatDistribution(0, 9))}
    )
    assert (fitted.params, fitted.left_out) == ({"a": 3, "b": 9.0}, {"c": 1})
    assert [type(value) for value in fitted.params.values()] == [int, float]
