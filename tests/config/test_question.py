"""The question of a space: pairs that differ in its factor only."""

import pytest

from meanflow_tune.config import Question, TrialConfig
from meanflow_tune.config.effects import without_effect
from meanflow_tune.config.overrides import flatten
from meanflow_tune.search.space.draws import draw_fixed, draw_random
from meanflow_tune.search.space.load import Space, known_spaces, load_space

ALLOWED = ("losses.", "x_source", "ds_schedule")


@pytest.fixture(scope="module", params=known_spaces())
def space(request: pytest.FixtureRequest) -> Space:
    return load_space(request.param)


def configs(space: Space) -> list[TrialConfig]:
    fixed = [draw_fixed(space.suggest, params).config for params in space.baselines.values()]
    return [*fixed, *(draw_random(space.suggest, seed).config for seed in range(60))]


def asked(space: Space) -> Question:
    assert space.question is not None
    return space.question


def test_every_configuration_has_a_counterpart_on_the_other_side(space: Space) -> None:
    question, sides = asked(space), set()
    for config in configs(space):
        data = config.to_dict()
        other = question.counterpart(data)
        assert other is not None
        assert question.has(other) is not question.has(data)
        sides.add(question.has(data))
        ours, theirs = flatten(data), flatten(other)
        changed = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
        assert all(name.startswith(ALLOWED) for name in changed), "nothing else differs"
        assert without_effect(TrialConfig.from_dict(other)) is None
    assert sides == {True, False}


def test_there_and_back_is_the_same_configuration(space: Space) -> None:
    question = asked(space)
    for config in configs(space):
        data = config.to_dict()
        if question.has(data) or config.x_source.kind != "student_jump":
            continue
        there = question.counterpart(data)
        assert there is not None
        back = question.counterpart(there)
        assert back is not None
        shares, again = (TrialConfig.from_dict(each).losses.weights(1.0) for each in (data, back))
        assert again == pytest.approx(shares)


def test_a_pair_trains_with_the_share_of_the_factor_or_without_any() -> None:
    space = load_space("second_order")
    question = asked(space)
    plain = draw_fixed(space.suggest, space.baselines["meanflow_cifar10_lr_mid"]).config
    paired = draw_fixed(space.suggest, space.baselines["meanflow_cifar10_second_order"]).config
    assert question.including(plain) == paired
    assert question.without(paired) == plain
    assert question.including(paired) is paired
    assert question.without(plain) is plain
