"""RAMPS_END and QUESTION of a space are refused before Ray starts where they fail or return nonsense."""

from pathlib import Path

import pytest

from meanflow_tune.plan.plan import Plan, make_plan
from meanflow_tune.plan.request import SearchRequest, UserError
from tests.support.paths import TINY_SPACE

HEAD = """
from meanflow_tune.config import Question


def none(config):
    raise ValueError("there is none")


def other(config, **changes):
    return config.model_copy(update=changes)


def faulty(config):
    raise KeyError("boom")


"""


def plan_of(folder: Path, line: str) -> Plan:
    path = folder / "ruled.py"
    path.write_text(f"{TINY_SPACE.read_text()}{HEAD}{line}\n")
    return make_plan(
        SearchRequest(
            space=str(path), study="s", trials=4, storage=folder / "runs", sampler="random"
        )
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("RAMPS_END = faulty", "RAMPS_END: KeyError: 'boom'"),
        (
            "RAMPS_END = lambda config: 5.0",
            "RAMPS_END returns 5.0; it must be a progress from 0 to 1",
        ),
        ("RAMPS_END = lambda config: -0.1", "RAMPS_END returns -0.1"),
        ("RAMPS_END = lambda config: float('nan')", "RAMPS_END returns nan"),
        ("RAMPS_END = lambda config: None", "RAMPS_END returns None"),
        ("RAMPS_END = lambda config: True", "RAMPS_END returns True"),
        ("RAMPS_END = lambda: 0.0", "RAMPS_END: TypeError"),
        ("QUESTION = Question('Q?', 'a factor', faulty, none)", "QUESTION: KeyError: 'boom'"),
        ("QUESTION = Question('Q?', 'a factor', lambda c: 3, none)", "`without` returns 3, not a"),
        (
            "QUESTION = Question('Q?', 'a factor', lambda c: c, lambda c: None)",
            "`including` returns None",
        ),
        (
            "QUESTION = Question('Q?', 'a factor', none, none)",
            "no configuration of the space has a",
        ),
        (
            "QUESTION = Question('Q?', 'a factor', lambda c: c, none)",
            "no configuration of the space has",
        ),
        (
            "QUESTION = Question('Q?', 'a factor', lambda c: c, lambda c: c)",
            "`including` returns a conf",
        ),
        (
            "QUESTION = Question('Q?', 'a factor', lambda c: other(c, seed=c.seed + 1), none)",
            "`without`, applied twice",
        ),
        (
            "QUESTION = Question('Q?', 'a factor', lambda c: other(c, data=EightGaussians(size=640,"
            " held_out=64)), none)",
            "QUESTION: `data.",
        ),
        (
            "QUESTION = Question('', 'a factor', none, none)",
            "needs a text and the name of a factor",
        ),
        ("QUESTION = Question('Q?', None, none, none)", "needs a text and the name of a factor"),
        ("QUESTION = Question('Q?', 'a factor', none, 3)", "must be functions of a TrialConfig"),
        (
            "QUESTION = Question('Q?', 'a factor', none, none, None)",
            "families must map names to names",
        ),
    ],
)
def test_a_rule_that_fails_is_refused_in_one_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_of(tmp_path, line)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


RARE = """
def rare(config):
    if config.seed == 12345:
        raise KeyError("late")
    return config


def added(config):
    return other(config, label_dropout=0.25)


def removed(config):
    rare(config)
    return other(config, label_dropout=0.0)


QUESTION = Question("Q?", "a factor", removed, added)
RAMPS_END = lambda config: 0.5 if rare(config) else 1.0
"""


def test_a_rule_that_fails_later_on_ends_no_search(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, RARE)
    config = plan.examples[0].to_dict()
    question = plan.space.question
    assert question is not None
    assert plan.ramps_end(config) == 0.5
    assert question.counterpart(config) is not None
    late = config | {"seed": 12345}
    assert plan.ramps_end(late) == 0.0
    assert question.counterpart(late) is None
    assert question.has(late), "what it cannot be taken from has it"
