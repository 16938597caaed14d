"""The forecast of a plan, printed: images and time of each rung, of the search, and its disk space."""

import shutil
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import pairwise

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from meanflow_tune.cluster.layout import Layout
from meanflow_tune.config import TrialConfig
from meanflow_tune.plan.calibration import Calibration, Sizes, computed_sizes
from meanflow_tune.plan.confirm import planned_runs, question_of
from meanflow_tune.plan.disk_forecast import DiskForecast
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.text import about, counted, headed, make_table, rounded, size
from meanflow_tune.search.analysis.forecast import (
    Ladder,
    Pace,
    Work,
    measured_pace,
    remaining_work,
    trials_within,
    wall_seconds,
)
from meanflow_tune.training.resources import Resources
from meanflow_tune.training.world import World

MOST_TRIALS = 1000  # the highest number that a time budget is said to afford


def ladder_of(plan: Plan) -> Ladder:
    """The rungs and numbers of trials of a plan, for a forecast."""
    request, budget = plan.request, plan.examples[0].budget
    return Ladder(
        tuple(step * budget.global_batch for step in budget.rung_steps),
        plan.rungs,
        request.trials,
        len(plan.space.baselines),
        request.repeats,
    )


def confirmation_work(plan: Plan, images: int) -> Work:
    """The most that a confirmation trains, at `images` a run."""
    request = plan.request
    runs = planned_runs(plan.space, request.confirm, request.confirm_seeds, question_of(plan))
    return Work(runs * images, runs, runs)


def further_runs(plan: Plan) -> float:
    """Whole runs besides the trials' own: the most of a confirmation, and the expected repeats."""
    ladder = ladder_of(plan)
    return confirmation_work(plan, ladder.images[-1]).trials + ladder.repeats * ladder.repeated


@dataclass(frozen=True)
class Forecast:
    """What a search is expected to train, how long that takes where it is known, and its files.

    layout: None where the cluster decides how many trials run at once; records: trials that the study
    holds already; calibration: measured figures, if there are any.
    """

    console: Console
    plan: Plan
    layout: Layout | None
    records: Sequence[TrialRecord]
    calibration: Calibration | None

    def show(self) -> None:
        """Print it."""
        request, baselines = self.plan.request, self._ladder.baselines
        named = f", {baselines} of them baselines" if baselines else ""
        self.console.print()
        self.console.print(headed("Forecast", f": {request.trials} trials{named}"))
        self._print(f"stopping: {stopping_text(request)}")
        self._show_rungs()
        self._show_totals()
        self._show_times()
        self._show_disk()

    @property
    def _first(self) -> TrialConfig:
        return self.plan.examples[0]

    @cached_property
    def _ladder(self) -> Ladder:
        return ladder_of(self.plan)

    @property
    def _rungs(self) -> tuple[int, ...]:
        return self._ladder.images

    @property
    def _slots(self) -> int:
        return self.layout.slots if self.layout is not None else 1

    @cached_property
    def _confirmation(self) -> Work:
        return confirmation_work(self.plan, self._rungs[-1])

    @cached_property
    def _pace(self) -> Pace | None:
        if self.calibration is not None:
            return self.calibration.pace
        return measured_pace(self.records)

    def _print(self, text: str | Text) -> None:
        """An indented paragraph."""
        self.console.print(Padding(text, (0, 0, 0, 2)))

    def _show_rungs(self) -> None:
        """Images and cost of each rung, and how many trials are expected to reach it."""
        numbers = self._ladder.reach
        pace = self._pace
        names = ["rung", "images", "steps", "trials there", "images of all"]
        if pace is not None:
            names += ["time of one", "time of all"]
        table = make_table(*names, text=0)
        batch = self._first.budget.global_batch
        for index, (before, images) in enumerate(pairwise((0, *self._rungs))):
            number = numbers[index]
            cells = [
                str(index + 1),
                f"{images:,}",
                f"{images // batch:,}",
                f"{number:.0f}" if number == round(number) else f"about {number:.1f}",
                rounded(number * (images - before)),
            ]
            if pace is not None:
                one = Work(images - before, 1.0, 1.0 if index == 0 else 0.0)
                cells += [about(pace.seconds(one)), about(number * pace.seconds(one))]
            table.add_row(*cells)
        self.console.print(table)
        budgets = {config.budget for config in self.plan.examples}
        if len(budgets) > 1:
            self._print(
                f"budgets differ between configurations ({len(budgets)} in {len(self.plan.examples)} "
                "draws); these are the first baseline's"
            )

    def _show_totals(self) -> None:
        request = self.plan.request
        full = request.trials * self._rungs[-1]
        again = request.repeats * self._ladder.repeated
        own = self._ladder.work.images - again * self._rungs[-1]
        self._print(
            f"search: about {rounded(own)} images, {100 * own / full:.0f} % of the {full:,} without "
            "early stopping"
        )
        if request.repeats:
            self._print(
                f"repeats: {counted(request.repeats, 'more seed')} of the best at the last rung, about "
                f"{self._ladder.repeated:.1f} trials: {rounded(again * self._rungs[-1])} images"
            )
        if runs := self._confirmation.trials:
            self._print(f"confirmation: up to {runs:.0f} runs of {self._rungs[-1]:,} images")
        teacher = self._first.teacher
        if teacher is not None:
            weights = self._resources.teacher_folder(self._first) / "teacher.safetensors"
            state = "cached already" if weights.exists() else "trained once, before the first"
            self._print(
                f"teacher: {teacher.budget.steps:,} steps of {teacher.budget.global_batch} images, "
                f"{state}"
            )

    @cached_property
    def _resources(self) -> Resources:
        return Resources(self.plan.request.teachers, World())

    def _show_times(self) -> None:
        request, pace = self.plan.request, self._pace
        if pace is None:
            why = "nothing has been measured yet; --calibrate times a short training of this space"
            if self.calibration is not None:
                why = "no configuration could be timed"
            self._print(f"time: unknown, because {why}")
            if request.time_budget is not None:
                self._print(
                    f"what --time-budget {about(request.time_budget)} affords is unknown too"
                )
            return
        if self.calibration is not None:
            source = "calibration, one trial alone; several at once may slow each other"
        else:
            trials = sum(bool(record.reports) for record in self.records)
            source = f"measured in {trials} trials of this study"
        self._print(f"times: {source}")
        whole = Work(self._rungs[-1], len(self._rungs), 1.0)
        longest = pace.seconds(whole)
        parts = {"search": wall_seconds(self._ladder.work, pace, self._slots, whole)}
        if self._confirmation.trials:
            one = Work(self._rungs[-1], 1.0, 1.0)
            parts["confirmation"] = wall_seconds(self._confirmation, pace, self._slots, one)
        if self.calibration is not None and self._first.teacher is not None:
            parts["teacher"] = self.calibration.teacher + self.calibration.preparation
        listed = ", ".join(f"{name} {about(seconds)}" for name, seconds in parts.items())
        at = f"with {self._slots} at once" if self.layout is not None else "in one slot"
        self._print(f"a whole trial {about(longest)}; {at}: {listed}")
        self._print(headed(f"about {about(sum(parts.values()))} in all", f" {at}"))
        self._show_left(pace)
        self._show_budget(pace)

    def _show_left(self, pace: Pace) -> None:
        """Of a study that has begun: what is left."""
        if not self.records:
            return
        work, longest = remaining_work(self.records, self._ladder)
        seconds = wall_seconds(work, pace, self._slots, longest)
        self._print(
            f"the study holds {len(self.records)} trials; about {about(seconds)} of the search is left"
        )

    def _show_budget(self, pace: Pace) -> None:
        request = self.plan.request
        if request.time_budget is None:
            return
        number = trials_within(request.time_budget, self._ladder, pace, self._slots, MOST_TRIALS)
        enough = "enough for" if number >= request.trials else "fewer than"
        more = "at least" if number == MOST_TRIALS else "about"
        self._print(
            f"--time-budget {about(request.time_budget)} affords {more} {number} trials, {enough} the "
            f"{request.trials} of --trials"
        )

    def _show_disk(self) -> None:
        """Checkpoints, samples and models of a trial and in all, against what is free."""
        sizes, source = self._sizes()
        request = self.plan.request
        runs = further_runs(self.plan)
        disk = DiskForecast(request, sizes, self._ladder.reach, runs, self._slots)
        total, free = disk.total, shutil.disk_usage(request.storage).free
        self.console.print()
        self.console.print(headed("Disk", f", {source}, without pictures"))
        self._print(
            f"per trial: {size(disk.trial)} ({disk.kept} checkpoints of {size(sizes.checkpoint)}, "
            f"{len(self._rungs)} times samples of {size(sizes.samples)}, the model of "
            f"{size(sizes.model)}{' twice, once for MLflow' if disk.copies == 2 else ''})"
        )
        self._print(
            f"about {size(total)} in all: checkpoints {size(disk.checkpoints)} (--keep-checkpoints "
            f"{request.keep_checkpoints}), outputs {size(disk.outputs)}; {size(free)} are free in "
            f"{request.storage}"
        )
        if total > free:
            smaller = " --keep-checkpoints last," if request.keep_checkpoints == "all" else ""
            self._print(
                headed(
                    f"does not fit: {size(total - free)} are missing;",
                    f" choose a larger disk for --storage,{smaller} or fewer trials",
                    "bold red",
                )
            )

    def _sizes(self) -> tuple[Sizes, str]:
        """The largest of all configurations, and whether they were measured or computed."""
        timed = self.calibration.timings if self.calibration is not None else ()
        found = [timing.sizes for timing in timed if timing.sizes is not None]
        source = "measured"
        if not found:
            distinct = {(c.model, c.weighting, c.evaluation): c for c in self.plan.examples}
            found = [computed_sizes(c, self._resources.data(c)) for c in distinct.values()]
            source = "counted from the networks"
        return Sizes(*map(max, zip(*map(astuple, found), strict=True))), source


def stopping_text(request: SearchRequest) -> str:
    """The stopping rule in words."""
    if request.scheduler == "none":
        return "none, every trial runs to its end"
    if request.scheduler == "median":
        words = ["a trial worse than the median at a rung is stopped"]
    else:
        words = [f"successive halving, the best 1/{request.reduction:g} continue at each rung"]
        if request.promotion:
            words.append("a paused trial resumes once it is among them")
        if request.brackets > 1:
            words.append(f"{request.brackets} brackets")
    if request.grace:
        words.append(f"no trial is stopped before {request.grace:,} images")
    if request.protect:
        words.append(f"{100 * request.protect:g} % of the proposed trials are never stopped")
    return "; ".join(words)
