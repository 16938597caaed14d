"""A small search with its confirmation, as records."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from meanflow_tune.config import Question, TrialConfig
from meanflow_tune.plan.confirm import Entry
from meanflow_tune.records import Report, Status, TrialRecord
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.space.load import Space
from tests.support.records import build_record

GAP = Objectives.parse("gap@1")
SPACE = Space(
    name="toy",
    suggest=lambda trial: {},
    goal="Which one is best?",
    objective=GAP.parts[0],
    baselines={name: {} for name in ("low", "mid", "forward", "bent")},
    source_hash="",
    reference=("low", "mid"),
    families={"backward": ("low", "mid"), "forward": ("forward",), "bent": ("bent",)},
)
SEARCH_SEED = 3


def record(
    number: int, value: float, baseline: str | None = None, status: Status = "completed"
) -> TrialRecord:
    config = {
        "seed": 0,
        "optimizer": {"learning_rate": 0.01, "warmup": 0.1},
        "budget": {"images": 100, "global_batch": 10, "rungs": [0.5, 1.0]},
        "evaluation": {"latent_seed": 20_000, "samples": 8},
        "mark": number,
    }
    report = Report(100, {"gap@1": value}, {}, 0.0)
    fields = {"study": "toy", "config": config, "value": value, "baseline": baseline}
    return build_record(number, status, report, **fields)


SEARCH = [
    record(0, 0.5, "low"),
    record(1, 0.4, "mid"),
    record(2, 0.35, "forward"),
    record(3, 0.6, "bent"),
    record(4, 0.3),
    record(5, 0.2),
    record(6, 0.1, status="pruned"),
    record(7, 0.25),
]


def run(entry: Entry, value: float, number: int, status: Status = "completed") -> TrialRecord:
    """What the confirming study holds of an entry."""
    made = record(number, value, status=status)
    return replace(
        made, baseline=entry.name, params=entry.params, config=made.config | {"seed": entry.seed}
    )


class Marked(Question):
    """A toy factor: an odd mark has it, and its counterpart has the next lower or higher mark."""

    def has(self, config: Mapping[str, Any]) -> bool:
        return bool(config["mark"] % 2)

    def counterpart(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        mark = config["mark"]
        return None if mark == 7 else dict(config) | {"mark": mark - 1 if mark % 2 else mark + 1}


def _unused(config: TrialConfig) -> TrialConfig:
    raise AssertionError


FACTOR = Marked("Does it help?", "an odd mark", _unused, _unused)
