"""The loop: bitwise resume, rungs and decisions, divergence, and freedom from the number of ranks."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from meanflow_tune.config import Budget, TrialConfig, Weighting
from meanflow_tune.core.random import RowDraws
from meanflow_tune.time_samplers import LogitNormalPairs
from meanflow_tune.training import loop
from meanflow_tune.training.checkpoints import newest_checkpoint, save_checkpoint
from meanflow_tune.training.divergence import Diverged
from meanflow_tune.training.evaluation import Evaluator
from meanflow_tune.training.loop import train
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.tiny_run import Memory, assert_same, tiny_config

WORLD = World()


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(tmp_path_factory.mktemp("teachers"), WORLD)


def start(config: TrialConfig, resources: Resources) -> tuple[Run, Evaluator | None]:
    teacher = resources.teacher(config, Memory())
    run = Run.start(config, WORLD, resources.data(config), teacher)
    return run, resources.evaluator(config, Memory())


def test_resume_is_bitwise(resources: Resources, tmp_path: Path) -> None:
    """Five steps, a fresh process' state, and five more are ten steps: weights, EMA and Adam."""
    whole, evaluator = start(tiny_config(), resources)
    assert train(whole, tmp_path / "whole", Memory(), evaluator).status == "completed"
    first, evaluator = start(tiny_config(), resources)
    outcome = train(first, tmp_path / "parts", Memory(interrupt_after=5), evaluator)
    assert (outcome.status, first.step) == ("running", 5)
    second, evaluator = start(tiny_config(), resources)
    reporter = Memory()
    assert train(second, tmp_path / "parts", reporter, evaluator).status == "completed"
    assert_same(whole, second)
    assert [report.images for report in reporter.reports] == [128, 320], (
        "the first rung is replayed"
    )
    one, two = whole.reports[-1].metrics, second.reports[-1].metrics
    samples = {k: v for k, v in one.items() if "loss" not in k}
    assert {k: two[k] for k in samples} == samples
    assert two == pytest.approx(one), "losses since the last rung, the interrupted steps included"


def test_a_finished_run_reports_again_and_trains_no_more(
    resources: Resources, tmp_path: Path
) -> None:
    run, evaluator = start(tiny_config(), resources)
    train(run, tmp_path, Memory(), evaluator)
    again, reporter = start(tiny_config(), resources)[0], Memory()
    assert train(again, tmp_path, reporter, evaluator).status == "completed"
    assert reporter.reports == run.reports
    assert reporter.asked == 0
    assert_same(run, again)


def test_a_decision_ends_the_run_at_its_rung(resources: Resources, tmp_path: Path) -> None:
    run, evaluator = start(tiny_config(), resources)
    outcome = train(run, tmp_path, Memory(stop_after=1), evaluator)
    assert (outcome.status, run.images) == ("pruned", 128)
    assert newest_checkpoint(tmp_path / "checkpoints", print) is not None


def test_a_decision_at_the_last_rung_changes_nothing(resources: Resources, tmp_path: Path) -> None:
    run, evaluator = start(tiny_config(), resources)
    assert train(run, tmp_path, Memory(stop_after=2), evaluator).status == "completed"


def test_divergence_names_step_and_term(resources: Resources, tmp_path: Path) -> None:
    """A weight that overflows ends the run as diverged; nothing is repaired or reported."""
    run, evaluator = start(tiny_config(), resources)
    run.advance(run.objective)
    with torch.no_grad():
        next(run.objective.student.parameters()).fill_(1e38)
    reporter = Memory()
    outcome = train(run, tmp_path, reporter, evaluator)
    assert outcome.status == "diverged"
    assert "step 1 (32 images)" in outcome.reason
    assert "residual" in outcome.reason
    assert reporter.reports == []


def test_a_loss_that_overflows_alone_poisons_the_gradient(resources: Resources) -> None:
    """The weight of an infinite mean square is 0, so its gradient would look harmless: 0 · ∞."""
    run, _ = start(tiny_config(weighting=Weighting(power=1.0)), resources)
    with torch.no_grad():
        list(run.objective.student.parameters())[-1].fill_(1e25)
    with pytest.raises(Diverged):
        run.advance(run.objective)


def test_a_rank_draws_its_own_rows_only(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = RowDraws._draw

    def count(draws: RowDraws) -> Tensor:
        drawn.append(len(draws.rows))
        return draw(draws)

    monkeypatch.setattr(RowDraws, "_draw", count)
    config = tiny_config()
    Run.start(config, World(1, 4), resources.data(config), None).batch()
    assert set(drawn) == {config.budget.global_batch // 4}


def test_teacher_and_student_of_one_seed_share_no_draw(resources: Resources) -> None:
    config = tiny_config(seed=0)
    assert config.teacher is not None
    assert config.teacher.seed == config.seed
    data = resources.data(config)
    same_batch = config.teacher.model_copy(update={"budget": config.budget})
    own = config.model_copy(update={"teacher": same_batch})
    student = Run.start(own, WORLD, data, None)
    teacher = Run.start(own.teacher_run(), WORLD, data, None)
    ours, theirs = student.batch(), teacher.batch()
    assert not set(ours.x_0.flatten().tolist()) & set(theirs.x_0.flatten().tolist())
    assert (ours.x_1 != theirs.x_1).any(dim=1).sum() > 24, "other data, up to chance"


def test_the_global_batch_does_not_depend_on_the_ranks(resources: Resources) -> None:
    config = tiny_config()
    data = resources.data(config)
    whole = Run.start(config, World(), data, None).batch()
    parts = [Run.start(config, World(rank, 2), data, None).batch() for rank in range(2)]
    for name in ("x_0", "x_1", "t", "s"):
        both = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(both, getattr(whole, name)), name
    diagonal = [int((part.gap == 0).sum()) for part in parts]
    assert abs(diagonal[0] - diagonal[1]) <= 1, "every rank gets its share of the diagonal"


def test_an_uneven_batch_is_refused(resources: Resources) -> None:
    with pytest.raises(ValueError, match=r"budget.global_batch.* 32 and 3"):
        Run.start(tiny_config(), World(0, 3), resources.data(tiny_config()), None)


def test_the_seed_changes_the_run_and_nothing_else_does(resources: Resources) -> None:
    def weights(seed: int) -> Tensor:
        run, _ = start(tiny_config(seed=seed), resources)
        run.advance(run.objective)
        return torch.cat([p.detach().flatten() for p in run.objective.student.parameters()])

    torch.manual_seed(1)
    first = weights(3)
    torch.manual_seed(2)
    assert torch.equal(first, weights(3))
    assert not torch.equal(first, weights(4))


def test_a_checkpoint_of_another_configuration_is_refused(
    resources: Resources, tmp_path: Path
) -> None:
    run, evaluator = start(tiny_config(), resources)
    train(run, tmp_path, Memory(), evaluator)
    other, evaluator = start(
        tiny_config(budget=Budget(images=640, global_batch=32, rungs=(1.0,))), resources
    )
    with pytest.raises(ValueError, match="another configuration"):
        train(other, tmp_path, Memory(), evaluator)


def test_training_brings_the_student_closer(resources: Resources, tmp_path: Path) -> None:
    config = tiny_config(budget=Budget(images=6400, global_batch=64, rungs=(0.05, 1.0)))
    run, evaluator = start(config, resources)
    train(run, tmp_path, Memory(), evaluator)
    first, last = (report.metrics["teacher_gap@1"] for report in run.reports)
    assert last < 0.7 * first
    cost = run.reports[-1].cost
    assert cost["cpu_seconds"] > 0
    assert cost["steps"] == 100


def test_a_student_can_begin_with_the_teachers_weights(resources: Resources) -> None:
    config = tiny_config(student_init="teacher")
    teacher = resources.teacher(config, Memory())
    assert teacher is not None
    data = resources.data(config)
    run = Run.start(config, WORLD, data, teacher, resources.initial(config))
    x, t = data.train_x[:8], torch.linspace(0, 1, 8)
    assert torch.equal(run.objective.student(x, t, t), teacher(x, t))
    run.advance(run.objective)
    assert not torch.equal(run.objective.student(x, t, t), teacher(x, t))
    assert torch.equal(teacher(x, t), resources.teacher(config, Memory())(x, t)), "it stays frozen"
    with pytest.raises(ValueError, match="student_init"):
        Run.start(config, WORLD, data, teacher)


def test_a_checkpoint_of_an_earlier_revision_resumes(resources: Resources, tmp_path: Path) -> None:
    """It lacks the settings that came later, and loss sums; its diagonal lay at a random end."""
    sampler = LogitNormalPairs(diagonal_at="random")
    first, evaluator = start(tiny_config(time_sampler=sampler), resources)
    train(first, tmp_path, Memory(interrupt_after=5), evaluator)
    state = first.state_dict()
    del state["sums"]
    stored = json.loads(json.dumps(state["config"]))
    for name in ("diagonal_at", "diagonal"):
        del stored["time_sampler"][name]
    save_checkpoint(tmp_path / "checkpoints", first.images, state | {"config": stored})
    again = TrialConfig.from_dict(stored)
    assert again == first.config
    second, evaluator = start(again, resources)
    assert train(second, tmp_path, Memory(), evaluator).status == "completed"
    assert second.reports[-1].cost["steps"] == 10, "it continued"


def test_what_is_written_by_hand_takes_the_defaults_of_today() -> None:
    stored = tiny_config(time_sampler=LogitNormalPairs(diagonal_at="end")).to_dict()
    assert TrialConfig.from_dict(stored).time_sampler.diagonal_at == "end"
    del stored["time_sampler"]["diagonal_at"]
    assert TrialConfig.from_dict(stored).time_sampler.diagonal_at == "random", "a whole dump"
    del stored["compile"]
    assert TrialConfig.from_dict(stored).time_sampler.diagonal_at == "start", "not one"


def test_samples_that_cannot_be_written_end_no_trial_but_a_checkpoint_does(
    resources: Resources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise PermissionError(13, "not allowed")

    monkeypatch.setattr(Evaluator, "write_samples", broken)
    run, evaluator = start(tiny_config(), resources)
    reporter = Memory()
    assert train(run, tmp_path / "a", reporter, evaluator).status == "completed"
    assert len(reporter.reports) == 2
    monkeypatch.setattr(loop, "save_checkpoint", broken)
    run, evaluator = start(tiny_config(), resources)
    with pytest.raises(PermissionError):
        train(run, tmp_path / "b", Memory(), evaluator)
