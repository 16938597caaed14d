"""`--seed` moves training, teacher and evaluation latents too, each for itself, unless one is set."""

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial

from meanflow_tune.config import TrialConfig
from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.driver.resume import prepare_study
from meanflow_tune.plan.derived_seeds import Seeds
from meanflow_tune.plan.plan import Plan, make_plan
from meanflow_tune.plan.request import UserError
from meanflow_tune.search.errors import StudyChanged
from meanflow_tune.search.store.lease import Lease
from meanflow_tune.search.store.manifest import MANIFEST_NAME, Manifest
from meanflow_tune.search.store.storage import JOURNAL_NAME, open_storage
from tests.support.manifests import manifest
from tests.support.paths import TINY_SPACE


def plan_of(folder: Path, *arguments: str) -> Plan:
    given = ["--space", str(TINY_SPACE), "--storage", str(folder), "--study", "s", *arguments]
    return make_plan(search_request(tune_parser().parse_args(given)))


def drawn(plan: Plan) -> TrialConfig:
    params = next(iter(plan.space.baselines.values()))
    return TrialConfig.from_dict(plan.suggest(FixedTrial(params)))


def seeds(config: TrialConfig) -> tuple[int, int, int]:
    assert config.teacher is not None
    assert config.evaluation is not None
    return config.seed, config.teacher.seed, config.evaluation.latent_seed


def test_all_of_them_follow_from_the_seed_of_the_search(tmp_path: Path) -> None:
    found = {seed: seeds(drawn(plan_of(tmp_path, "--seed", str(seed)))) for seed in (0, 1, 2)}
    each = [number for three in found.values() for number in three]
    assert len(set(each)) == len(each), "no seed serves two purposes or two searches"
    assert seeds(drawn(plan_of(tmp_path, "--seed", "1"))) == found[1]
    assert {seeds(config) for config in plan_of(tmp_path, "--seed", "1").examples} == {found[1]}


@pytest.mark.parametrize(
    ("path", "place"), [("seed", 0), ("teacher.seed", 1), ("evaluation.latent_seed", 2)]
)
@pytest.mark.parametrize("value", [0, 7])
def test_one_that_is_set_stays(tmp_path: Path, path: str, place: int, value: int) -> None:
    derived = seeds(drawn(plan_of(tmp_path)))
    found = seeds(drawn(plan_of(tmp_path, "--set", f"{path}={value}")))
    assert found == tuple(value if i == place else seed for i, seed in enumerate(derived))


def test_a_seed_of_the_space_stays(tmp_path: Path) -> None:
    config = drawn(plan_of(tmp_path)).model_copy(update={"seed": 11})
    assert Seeds.of(5).apply(config).seed == 11


def begun(plan: Plan, **changes: Any) -> Manifest:
    """The manifest of a study of this plan that has one trial."""
    made = manifest(study="s", **changes)
    made.write(plan.request.folder)
    return made


def test_a_study_of_an_earlier_revision_keeps_its_seeds(tmp_path: Path) -> None:
    """Its trials have seed 0 and the latents of seed 20,000; new ones must be comparable."""
    begun(plan_of(tmp_path))
    assert seeds(drawn(plan_of(tmp_path, "--seed", "3"))) == (0, 0, 20_000)


def test_a_study_begun_afresh_has_new_seeds(tmp_path: Path) -> None:
    """`--resume fresh` puts the old study aside, and with it the seeds of an earlier revision."""
    derived = seeds(drawn(plan_of(tmp_path, "--seed", "3")))
    begun(plan_of(tmp_path))
    plan = plan_of(tmp_path, "--seed", "3", "--resume", "fresh")
    assert plan.seeds == Seeds.of(3)
    assert seeds(drawn(plan)) == derived


@pytest.mark.parametrize("path", ["seed", "teacher.seed", "evaluation.latent_seed"])
def test_a_seed_that_no_table_can_hold_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=rf"{path}: .*less than {2**63} \(got {2**63}\)"):
        plan_of(tmp_path, "--set", f"{path}={2**63}")


def test_another_seed_on_resume_must_be_accepted(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "--seed", "1")
    with Lease.acquire(plan.request.folder) as lease:
        storage = open_storage(plan.request.folder / JOURNAL_NAME, lease.check)
        _, first = prepare_study(storage, plan, print)
        assert Manifest.read(plan.request.folder) == first
        assert (plan.request.folder / MANIFEST_NAME).exists()
        from optuna import create_study

        create_study(storage=storage, study_name="s").ask()
        with pytest.raises(
            StudyChanged, match=r"what follows from --seed was latents \d+, teacher \d+"
        ):
            prepare_study(storage, plan_of(tmp_path, "--seed", "2"), print)
