"""What trials are measured against must be the same for all of them, or their objectives do not compare."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from meanflow_tune.metrics import METRIC_KINDS
from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.space.draws import AnyTrial

# Parts of a configuration that every metric depends on, and those that the end of the teacher's ODE does.
ALWAYS = ("data", "evaluation")
OF_TEACHER = ("teacher", "guidance")
SHOWN = 60  # characters of a value in a message


class Yardstick:
    """What the objectives of a search measure with, read off one of its configurations.

    A metric that compares with the teacher rewards a trial for a teacher that is easy to follow, such as
    an untrained one; any metric depends on its samples and on the held-out data.
    """

    def __init__(self, config: Mapping[str, Any], objectives: Objectives) -> None:
        metrics = (config.get("evaluation") or {}).get("metrics", ())
        self._with_teacher = _named(metrics, objectives)
        self._names = ", ".join(objectives.metrics)
        parts = OF_TEACHER + ALWAYS if self._with_teacher else ALWAYS
        self._parts = parts if objectives.metrics else ()
        self._known = {part: config.get(part) for part in self._parts}

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise SpaceError where a trial of this configuration would be measured with another one."""
        for part in self._parts:
            for path, ours, theirs in _differences(part, self._known[part], config.get(part)):
                self._refuse(path, ours, theirs)

    def _refuse(self, path: str, ours: Any, theirs: Any) -> None:
        varies = f"`{path}` varies between trials ({_shown(ours)} and {_shown(theirs)})"
        if path.partition(".")[0] in OF_TEACHER:
            raise SpaceError(
                f"{varies}, and the objective {', '.join(self._with_teacher)} compares each trial with "
                "its own teacher, so a bad teacher that is easy to follow would win; compare with "
                "held-out data instead (sliced_wasserstein, frechet_pixels or frechet_features), or "
                "fix it in the space"
            )
        raise SpaceError(
            f"{varies}, so that their objectives ({self._names}) are not comparable; fix it in the space"
        )

    def guard(
        self, suggest: Callable[[AnyTrial], dict[str, Any]]
    ) -> Callable[[AnyTrial], dict[str, Any]]:
        """`suggest` with a check of each configuration: a rare branch may vary what no example did."""

        def checked(trial: AnyTrial) -> dict[str, Any]:
            config = suggest(trial)
            self.check(config)
            return config

        return checked


def _named(metrics: Any, objectives: Objectives) -> tuple[str, ...]:
    """The metrics of the objectives that compare with the teacher."""
    kinds = {kind.model_fields["kind"].default for kind in METRIC_KINDS if kind.needs_teacher}
    needing = {metric["kind"] for metric in metrics if metric["kind"] in kinds}
    return tuple(name for name in objectives.metrics if name.partition("@")[0] in needing)


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """The innermost settings in which two parts of a configuration differ."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and ours.keys() == theirs.keys():
        for key in ours:
            yield from _differences(f"{path}.{key}", ours[key], theirs[key])
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(f"{path}.{index}", *pair)
    elif ours != theirs:
        yield path, ours, theirs


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
