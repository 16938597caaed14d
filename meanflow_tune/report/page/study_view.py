"""What the page is made of: a study with its findings, of a search that ends or read from its folder."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from meanflow_tune.files import sqlite_below
from meanflow_tune.plan import confirm
from meanflow_tune.plan.findings import Findings, find
from meanflow_tune.plan.insight import Insight
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.page.charts.chart import Role
from meanflow_tune.search.errors import SpaceError, StorageError
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.space.draws import AnyTrial
from meanflow_tune.search.space.load import Space, load_space
from meanflow_tune.search.store.holder import has_died, read_lease
from meanflow_tune.search.store.manifest import Manifest, is_source_of
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import read_records
from meanflow_tune.search.study.relocate import find_study, recorded_url

SILENT_SECONDS = 60.0  # after which a driver that holds the lease is taken for dead


@dataclass(frozen=True)
class Chosen:
    """A trial that the page looks at closely. words: what it is, such as `reference, leader`."""

    record: TrialRecord
    words: str
    role: Role

    @property
    def title(self) -> str:
        return confirm.title(self.record)


@dataclass(frozen=True)
class StudyView:
    """A study as the page shows it. running: whether its search is at work; notes: what a reader must
    know about the page itself, one sentence each; made: unix seconds."""

    plan: Plan
    findings: Findings
    folder: Path
    manifest: Manifest | None = None
    running: bool = False
    notes: tuple[str, ...] = ()
    made: float = 0.0

    @property
    def name(self) -> str:
        return self.plan.request.study

    @property
    def objectives(self) -> Objectives:
        return self.plan.objectives

    @property
    def records(self) -> list[TrialRecord]:
        return self.findings.records

    @property
    def contents(self) -> tuple[object, ...]:
        """Equal for two views where a page shows the same."""
        return self.records, self.findings.confirmed, self.running, self.notes

    @property
    def completed(self) -> list[TrialRecord]:
        return [r for r in self.records if r.status == "completed" and r.reports]

    @property
    def insight(self) -> Insight:
        """What mattered among the parameters."""
        return self.findings.insight

    def chosen(self) -> list[Chosen]:
        """The reference, the leader and the best proposed trial; one that is several of these once."""
        found = self.findings
        roles: list[tuple[str, Role, TrialRecord | None]] = [
            ("reference", "reference", found.reference),
            ("leader", "leader", found.leader),
            ("best proposed", "proposed", found.best_proposed),
        ]
        kept: dict[int, Chosen] = {}
        for words, role, record in roles:
            if record is None:
                continue
            known = kept.get(record.number)
            if known is None:
                kept[record.number] = Chosen(record, words, role)
            else:
                kept[record.number] = replace(known, words=f"{known.words}, {words}")
        return list(kept.values())

    def role_of(self, record: TrialRecord) -> Role:
        """The colour of a trial in every chart."""
        for one in self.chosen():
            if one.record is record:
                return one.role
        return "bad" if record.status in ("diverged", "out_of_memory", "failed") else "other"


def open_study_view(folder: Path, url: str | None = None) -> StudyView:
    """The study in a folder as it is now, read only. url: of its database, where it has one.

    Raises UserError.
    """
    try:
        manifest = Manifest.read(folder)
    except StorageError as error:
        raise UserError(f"--study {folder.name}: {error}.", EXIT_UNUSABLE) from None
    if manifest is None:
        known = sorted(path.parent.name for path in folder.parent.glob("*/manifest.json"))
        there = f"studies there: {', '.join(known)}" if known else "no study is there"
        raise UserError(
            f"--study {folder.name}: there is no study in {folder} ({there}); name it by --study and "
            "--storage."
        )
    try:
        storage = open_storage(_location(folder, url, manifest.study_storage))
        records = read_records(storage, manifest.study, folder)
        try:
            confirmed = read_records(storage, f"{manifest.study}/confirm", folder / "confirm")
        except StorageError:
            confirmed = []
    except StorageError as error:
        raise UserError(f"--study {folder.name}: {error}.", EXIT_UNUSABLE) from None
    return view_of(folder, manifest, records, confirmed)


def view_of(
    folder: Path,
    manifest: Manifest,
    records: list[TrialRecord],
    confirmed: list[TrialRecord],
) -> StudyView:
    """The view of a study whose records are known."""
    space, notes = _space(manifest, records)
    objectives = Objectives.parse(manifest.objective)
    if str(Objectives.of(space.objective)) == manifest.objective:
        objectives = Objectives.of(space.objective)  # with its direction, which the text lacks
    request = SearchRequest(
        space=manifest.space,
        study=manifest.study,
        storage=folder.parent,
        seed=manifest.seed,
        settings=manifest.overrides,
        trials=max(manifest.trials or 0, 1),
        confirm=_confirmed_sides(records, confirmed, space, objectives),
    )
    plan = Plan(request, space, objectives, space.suggest, (), manifest.data_fingerprint, None)
    return StudyView(
        plan=plan,
        findings=find(plan, records, confirmed),
        folder=folder,
        manifest=manifest,
        running=is_running(folder),
        notes=notes,
        made=time.time(),
    )


def is_running(folder: Path) -> bool:
    """Whether a driver holds the study and is alive."""
    lease = read_lease(folder)
    if lease is None or lease.pid is None or has_died(lease):
        return False
    return time.time() - lease.heartbeat < SILENT_SECONDS


def _space(manifest: Manifest, records: Sequence[TrialRecord]) -> tuple[Space, tuple[str, ...]]:
    """The space of a study, or what its records tell about one that does not load any more."""
    try:
        space = load_space(manifest.space)
    except SpaceError as error:
        baselines = {r.baseline: r.params for r in records if r.baseline is not None}
        objective = Objectives.parse(manifest.objective).parts[0]
        given = manifest.space, _not_loaded, manifest.goal, objective, baselines, ""
        note = (
            f"The search space {manifest.space} cannot be loaded ({error}), so that the reference is the "
            "best of all baselines, and nothing is said about bounds."
        )
        return Space(*given, reference=tuple(baselines)), (note,)
    if not is_source_of(manifest, space.source_hash, space.earlier_hashes):
        note = (
            f"The source of the search space {manifest.space} has changed since this study; what the page "
            "says about baselines and bounds is that of the space as it is now."
        )
        return space, (note,)
    return space, ()


def _not_loaded(trial: AnyTrial) -> NoReturn:
    raise SpaceError("the space of this study is not loaded")


def _confirmed_sides(
    records: list[TrialRecord],
    confirmed: list[TrialRecord],
    space: Space,
    objectives: Objectives,
) -> int:
    """The `--confirm` with which all runs of the confirmation have a side; 1 where there are none."""
    wanted = {int(run.params["candidate"]) for run in confirmed}
    for count in range(1, len(wanted) + 2):
        sides: list[Any] = confirm.sides(records, space, objectives, count)
        if wanted <= {side.candidate.number for side in sides}:
            return count
    return max(1, len(wanted))


def _location(folder: Path, url: str | None, recorded: str | None) -> str | Path:
    """Where to read a study. url: as a user gave it; recorded: what its manifest says."""
    if url is not None:
        return sqlite_below(url, folder.parent)
    return recorded_url(folder, recorded) if recorded else find_study(folder, None)
