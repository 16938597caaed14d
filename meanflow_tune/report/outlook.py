"""Where a running search stands and when it will end, for the live view and for `--status`."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from meanflow_tune.plan.findings import kind_of
from meanflow_tune.plan.quality import Quality
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.text import about, figure
from meanflow_tune.report.textplot import scatter
from meanflow_tune.search.analysis.forecast import (
    Ladder,
    Pace,
    Work,
    count_at_rungs,
    measured_pace,
    remaining_work,
    wall_seconds,
)
from meanflow_tune.search.objectives import Direction, Objectives
from meanflow_tune.search.pareto import hypervolume, non_dominated, reference_point
from meanflow_tune.search.pruning.rules import show
from meanflow_tune.search.store.trials import best_record

DAY = 86_400.0
SCATTER_WIDTH, SCATTER_HEIGHT = 44, 7


@dataclass(frozen=True)
class Outlook:
    """Texts, "" where there is nothing to say, and the seconds left, None if unknown.

    picture: lines of a scatter of two objectives.
    """

    seconds_left: float | None = None
    forecast: str = ""
    rungs: str = ""
    front: str = ""
    picture: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def best_so_far(
    records: list[TrialRecord], direction: Direction, references: Collection[str] = ()
) -> str:
    """The leader, and the best proposed trial against the best of the reference baselines, or "".

    `best so far: trial 0 (baseline mid) with 0.3319; best proposed: trial 2 with 0.3813 (14.9 % worse
    than the reference)`.
    """
    best = best_record(records, direction)
    if best is None:
        return ""
    text = f"best so far: trial {best.number} ({kind_of(best)}) with {figure(best.value or 0.0)}"
    proposed = best_record(records, direction, baseline=False)
    named = [record for record in records if record.baseline in references]
    reference = best_record(named, direction)
    if proposed is None:
        return f"{text}; no proposed trial completed yet"
    if best is not proposed:
        text += f"; best proposed: trial {proposed.number} with {figure(proposed.value or 0.0)}"
    if reference is None:
        return text
    which = "the reference"
    if reference is not best:
        which += f", trial {reference.number} ({reference.baseline}) with "
        which += figure(reference.value or 0.0)
    return f"{text} ({_compared(proposed, reference, direction)} {which})"


def _compared(ours: TrialRecord, theirs: TrialRecord, direction: Direction) -> str:
    """`14.9 % worse than`, of two values; as a ratio only where both are above 0."""
    mine, other = ours.value or 0.0, theirs.value or 0.0
    if mine == other:
        return "equal to"
    word = "better" if (mine < other) == (direction == "minimize") else "worse"
    share = f"{100 * abs(mine / other - 1):.1f} % " if min(mine, other) > 0.0 else ""
    return f"{share}{word} than"


def teacher_quality(quality: Quality) -> str:
    """The end of the teacher's ODE against held-out data, with its scale; "" where that is unknown."""
    teacher, data, noise = (quality.held_out.get(of, {}) for of in ("teacher", "data", "noise"))
    words = [
        f"{name} {figure(value)} (training data {figure(data[name])}, noise {figure(noise[name])})"
        for name, value in teacher.items()
        if name in data and name in noise
    ]
    return f"the teacher against held-out data: {', '.join(words)}" if words else ""


class ProgressTracker:
    """Between rungs: how far running trials are, and how fast they train."""

    def __init__(self) -> None:
        # Of each trial: (monotonic seconds, images) at its first and last tick of training.
        self._heard: dict[int, tuple[tuple[float, int], tuple[float, int]]] = {}

    def heard(self, number: int, progress: Mapping[str, Any]) -> None:
        """A tick of a trial; only ticks of training count."""
        if progress.get("phase") == "train":
            now = (time.monotonic(), int(progress["images"]))
            self._heard[number] = (self._heard.get(number, (now, now))[0], now)

    def ended(self, number: int) -> None:
        """A trial stopped running, for now or for good."""
        self._heard.pop(number, None)

    @property
    def images(self) -> dict[int, int]:
        """Images seen by each running trial."""
        return {number: last[1] for number, (_, last) in list(self._heard.items())}

    @property
    def pace(self) -> Pace | None:
        """Of the running trials since they began to train; None where none has advanced."""
        spans = list(self._heard.values())
        images = sum(last[1] - first[1] for first, last in spans)
        seconds = sum(last[0] - first[0] for first, last in spans)
        return Pace(seconds / images) if images > 0 and seconds > 0.0 else None


def look_ahead(
    records: Sequence[TrialRecord],
    ladder: Ladder,
    objectives: Objectives,
    slots: int,
    progress: Mapping[int, int],
    ticked: Pace | None = None,
    afterwards: Work | None = None,
    budget_left: float | None = None,
    now: float | None = None,
) -> Outlook:
    """What is left of a search and how it stands.

    progress: images of running trials; ticked: their pace, for the time before the first rung;
    afterwards: the confirmation; budget_left: seconds after which a time budget ends the search; now:
    unix seconds.
    """
    front, picture = _front(records, objectives)
    rungs = _rungs(records, ladder)
    pace = measured_pace(records) or ticked
    if pace is None:
        return Outlook(
            None, "the end can be forecast once a trial is training", rungs, front, picture
        )
    work, longest = remaining_work(records, ladder, progress)
    seconds = wall_seconds(work, pace, slots, longest)
    notes = []
    if budget_left is not None and seconds > budget_left:
        notes.append(
            f"the search alone would take {about(seconds)}, but --time-budget ends it earlier"
        )
        seconds = budget_left
    if afterwards is not None and afterwards.trials:
        one = Work(*(part / afterwards.trials for part in asdict(afterwards).values()))
        more = wall_seconds(afterwards, pace, slots, one)
        seconds += more
        notes.append(f"including {about(more)} of confirmation")
    if seconds <= 0.0:
        return Outlook(0.0, "", rungs, front, picture)
    text = f"about {about(seconds)} left (end {end_of(seconds, now)})"
    return Outlook(seconds, "; ".join([text, *notes]), rungs, front, picture)


def end_of(seconds: float, now: float | None = None) -> str:
    """The time of day in `seconds`, with the day of the week if that is more than a day away."""
    moment = (time.time() if now is None else now) + seconds
    return time.strftime("%a %H:%M" if seconds > DAY else "%H:%M", time.localtime(moment))


def _rungs(records: Sequence[TrialRecord], ladder: Ladder) -> str:
    parts = [
        f"{counts.stopped} of {counts.reported} at {images:,} images"
        for images, counts in zip(ladder.images, count_at_rungs(records, ladder), strict=False)
        if counts.reported
    ]
    return f"stopped {', '.join(parts)}" if parts and ladder.rule is not None else ""


def _front(records: Sequence[TrialRecord], objectives: Objectives) -> tuple[str, tuple[str, ...]]:
    """The Pareto front in words, and a picture of it where there are two objectives."""
    done = [record for record in records if record.status == "completed" and record.values]
    if objectives.single is not None or not done:
        return "", ()
    ways = objectives.directions
    points = [record.values for record in done]
    best = non_dominated(points, ways)
    text = f"{sum(best)} of {len(done)} completed trials on the front"
    baselines = [record.values for record in done if record.baseline is not None]
    if baselines:
        reference = reference_point(baselines, ways)
        volume = hypervolume(points, reference, ways)
        text += f", hypervolume {volume:.4g} up to {show(reference)}, the baselines' worst values"
    if len(ways) != 2 or len(done) < 2:
        return text, ()
    first, second = objectives.parts
    rows = scatter([(a, b) for a, b in points], best, SCATTER_WIDTH, SCATTER_HEIGHT)
    low, high = _span(points, 1)
    left, right = _span(points, 0)
    lines = [
        f"{second}, {high} at the top, {low} at the bottom",
        *(f"│{row}" for row in rows),
        f"└{'─' * SCATTER_WIDTH}",
        f" {left:<{SCATTER_WIDTH - len(right)}}{right}  {first}",
    ]
    return text, tuple(line.rstrip() for line in lines)


def _span(points: Sequence[tuple[float, ...]], axis: int) -> tuple[str, str]:
    values = [point[axis] for point in points]
    return f"{min(values):.4g}", f"{max(values):.4g}"
