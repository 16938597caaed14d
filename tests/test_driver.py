"""The driver's own decisions: the terms of a study, and what is put aside."""

from pathlib import Path

import pytest

from meanflow_tune.driver import Driver, run
from meanflow_tune.plan import make_plan
from meanflow_tune.request import SearchRequest, UserError
from meanflow_tune.search.errors import StudyChanged
from meanflow_tune.search.lease import Lease
from meanflow_tune.search.ledger import Ledger
from meanflow_tune.search.storage import open_storage
from meanflow_tune.view import View

SPACE = str(Path(__file__).parent / "end_to_end" / "tiny_space.py")


def request(storage: Path, **changes: object) -> SearchRequest:
    return SearchRequest(
        **{"space": SPACE, "study": "s", "trials": 4, "storage": storage} | changes
    )


def check(given: SearchRequest, begin: bool = False) -> None:
    """Let a driver check the terms of its study; `begin`: then hand out a trial."""
    plan = make_plan(given)
    with Lease.acquire(given.folder) as lease:
        driver = Driver(plan, lease, View(quiet=True), "again", verbose=False)
        driver.storage = open_storage(given.folder / "study.journal", lease.check)
        driver._check_manifest()
        if begin:
            ledger = Ledger(
                storage=driver.storage,
                study_name=given.study,
                suggest=plan.suggest,
                baselines=plan.space.baselines,
                objectives=plan.objectives,
                rungs=None,
                sampler="tpe",
                seed=0,
                total=given.trials,
                folder=given.folder,
                fence=lease.check,
            )
            assert ledger.next() is not None


def test_terms_may_change_until_there_is_a_trial(tmp_path: Path) -> None:
    check(request(tmp_path, settings=("budget.images=25600",)))
    check(request(tmp_path), begin=True)
    check(request(tmp_path, trials=8, sampler="random"))  # no terms of comparison
    with pytest.raises(StudyChanged, match=r"budget.images=6400.*another study name"):
        check(request(tmp_path, settings=("budget.images=6400",)))


def test_another_source_of_the_space_is_another_study(tmp_path: Path) -> None:
    check(request(tmp_path), begin=True)
    copy = tmp_path / "tiny_space.py"
    copy.write_text(Path(SPACE).read_text().replace("size=512", "size=256"))
    with pytest.raises(StudyChanged, match="search space"):
        check(request(tmp_path, space=str(copy)))


def test_fresh_puts_the_old_study_aside_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(request(tmp_path), begin=True)
    journal = (tmp_path / "s" / "study.journal").read_bytes()
    monkeypatch.setattr(Driver, "run", lambda self: 0)
    assert run(request(tmp_path, resume="fresh"), "again", quiet=True) == 0
    (aside,) = tmp_path.glob("s-aside-*")
    assert (aside / "study.journal").read_bytes() == journal
    assert not (tmp_path / "s" / "study.journal").exists()


def test_fresh_refuses_while_a_driver_is_at_work(tmp_path: Path) -> None:
    with Lease.acquire(tmp_path / "s"), pytest.raises(UserError, match="in use") as refused:
        run(request(tmp_path, resume="fresh"), "again")
    assert refused.value.status == 4
