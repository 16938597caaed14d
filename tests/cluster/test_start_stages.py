"""The stages of a start, as `-v` prints them."""

from meanflow_tune.cluster.start_stages import StartStages


def test_each_stage_is_said_once_with_its_seconds() -> None:
    said: list[str] = []
    now = [100.0]
    stages = StartStages(said.append, lambda: now[0])
    idle = {"slots": {"slot-0": {"starts": 0}}, "progress": {}}
    stages.tick({"slots": {"slot-0": {"starts": 1}}, "progress": {}})  # before a start
    for stage, seconds in (("Ray is asked for", 0.0), ("Ray is up", 3.0), ("Ray is up", 9.0)):
        now[0] = 100.0 + seconds
        stages.reached(stage)
    stages.tick(idle)
    stages.tick({"slots": {"slot-0": {"starts": 1}}, "progress": {0: {"phase": "waiting"}}})
    now[0] = 110.5
    stages.tick({"slots": {"slot-0": {"starts": 1}}, "progress": {0: {"phase": "train"}}})
    assert said == [
        "start: Ray is asked for after 0.0 s (+0.0 s)",
        "start: Ray is up after 3.0 s (+3.0 s)",
        "start: ranks have met after 9.0 s (+6.0 s)",
        "start: a trial trains after 10.5 s (+1.5 s)",
    ]
