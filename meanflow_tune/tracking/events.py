"""The events of a search for MLflow: one run for the search, one below it for each trial.

Events carry everything that a replay needs; it depends only on them and on the files they name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meanflow_tune.config.overrides import flatten
from meanflow_tune.records import Job, Outcome, Report, TrialRecord
from meanflow_tune.tracking.outbox import Outbox


@dataclass(frozen=True)
class Origin:
    """What all runs of a search share. tags: of its source; datasets: name, digest, context and so on."""

    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: Sequence[Mapping[str, Any]] = ()


class Tracker:
    """Puts the events of one study into its outbox; each method returns once they are on disk.

    An event is written once, however often it is put, so a resumed search can put all again (`catch_up`).
    Records of a sibling study, `NAME/confirm`, become runs of the same search: `confirm/3`.
    """

    def __init__(self, outbox: Outbox, study: str, origin: Origin | None = None) -> None:
        self._outbox = outbox
        self._study = study
        self._origin = Origin() if origin is None else origin

    def search_started(
        self, facts: Mapping[str, Any], view: Mapping[str, Any] | None = None
    ) -> None:
        """facts: what defines the search: space, goal, objective, sampler, seeds, budget and so on.

        view: what the table of runs shows first, see `runs_view.view_state`.
        """
        source, first = dict(self._origin.tags), dict(view or {})
        self._put("search_started", facts=flatten(facts), source=source, view=first)

    def trial_started(self, job: Job, record: TrialRecord) -> None:
        """A trial was handed out, for the first time or again."""
        self._trial_started(record, job.config, job.attempt)

    def _trial_started(self, record: TrialRecord, config: Mapping[str, Any], attempt: int) -> None:
        self._put(
            "trial_started",
            _key(record, f"attempt/{attempt}"),
            record,
            baseline=record.baseline,
            origin=record.what if record.baseline is None else "baseline",
            attempt=attempt,
            terms=record.terms,
            config=config,
            params=record.params,
            started=record.started,
            source=dict(self._origin.tags) | _compile_tag(config),
            datasets=[dict(each) for each in self._origin.datasets],
        )

    def reported(self, record: TrialRecord, report: Report) -> None:
        """A trial reached a rung, or ended a repeat. Pictures (`.png`) among the artifacts are logged."""
        key = _reported_key(record, report)
        if report.repeat:
            about = {"baseline": record.baseline, "started": record.started}
            self._put("repeated", key, record, **about, report=report.to_dict())
            return
        rung = sum(earlier.images < report.images for earlier in record.reports)
        values = record.rung_values[rung] if rung < len(record.rung_values) else ()
        self._put(
            "reported",
            key,
            record,
            rung=rung + 1,
            value=values[0] if len(values) == 1 else None,
            values=list(values),
            decision=record.decisions[rung] if rung < len(record.decisions) else None,
            report=report.to_dict(),
        )

    def paused(self, record: TrialRecord) -> None:
        """A trial waits at a rung, and may resume later."""
        about = {"seconds": _seconds(record), "images": record.reports[-1].images}
        self._put("trial_paused", _paused_key(record), record, **about)

    def ended(self, record: TrialRecord, outcome: Outcome, model: Path | None = None) -> None:
        """A trial ended. model: the folder made by `export_student`, see `exported`."""
        if outcome.status in ("running", "paused"):
            raise ValueError(
                f"Trial {record.number} has not ended: its outcome is {outcome.status!r}."
            )
        self._put(
            "trial_ended",
            _key(record, "ended"),
            record,
            status=outcome.status,
            reason=outcome.reason,
            ended=record.ended,
            seconds=_seconds(record),
            images=record.reports[-1].images if record.reports else 0,
            model=None,
        )
        if model is not None:
            self.exported(record, model)

    def exported(self, record: TrialRecord, model: Path) -> None:
        """A completed trial's student, in a folder made by `export_student`, is logged once for its run."""
        last = record.reports[-1] if record.reports else None
        self._put(
            "model_exported",
            _model_key(record),
            record,
            model=str(Path(model).resolve()),
            images=last.images if last is not None else 0,
            objective=record.value,
            report=last.to_dict() if last is not None else None,
            datasets=[dict(each) for each in self._origin.datasets],
        )

    def settled(
        self,
        records: Iterable[TrialRecord],
        implausible: Mapping[int, str] | None = None,
        verdicts: Mapping[int, str] | None = None,
    ) -> None:
        """The state of each ended trial, at the end of a search, in one event; see `run_tree`.

        implausible: trial -> why its objective shows that its training failed. verdicts: trial -> what
        its seeds say against the reference, see `plan.verdicts`.
        """
        marks, judged = implausible or {}, verdicts or {}
        trials = {
            self._trial(record): {
                "tags": _standing(record),
                "ended": record.ended,
                "objective": record.value,
                "implausible": marks.get(record.number),
                "verdict": judged.get(record.number),
                "seconds": _seconds(record),
            }
            for record in records
            if record.status not in ("running", "paused")
        }
        self._put("trials_settled", trials=trials)

    def search_ended(
        self,
        summary: Mapping[str, Any],
        files: Iterable[Path] = (),
        metrics: Mapping[str, float] | None = None,
        description: str = "",
    ) -> None:
        """The driver stops. summary["status"]: completed, interrupted or failed; the rest are tags.

        files: results to keep with the search (the tables, best.json, best.png); metrics: of the search's
        own run; description: of it, Markdown.
        """
        status = summary.get("status")
        if status not in ("completed", "interrupted", "failed"):
            raise ValueError(
                f"summary['status'] must be completed, interrupted or failed, but got {status!r}."
            )
        paths = [str(Path(file).resolve()) for file in files]
        figures = dict(metrics or {})
        self._put(
            "search_ended",
            summary=flatten(summary),
            files=paths,
            metrics=figures,
            description=description,
        )

    def registered(self, entry: Mapping[str, Any]) -> None:
        """Models of this search enter the registry; entry: see `plan.registration`."""
        self._put("models_registered", **entry)

    def catch_up(
        self,
        records: Iterable[TrialRecord],
        model_of: Callable[[TrialRecord], Path | None] = lambda record: None,
        with_pictures: Callable[[TrialRecord, Report], Report] = lambda record, report: report,
    ) -> None:
        """Put the events that a killed driver did not: the study holds them, the outbox may not.

        with_pictures: adds a report's pictures to it, drawn again if they are missing. It and model_of
        read files, and are called only for events that are missing.
        """
        told = self._outbox.has
        for record in records:
            if not told(_key(record, f"attempt/{record.attempt}")):
                self._trial_started(record, record.config, record.attempt)
            for report in (*record.reports, *record.repeats):
                if not told(_reported_key(record, report)):
                    self.reported(record, with_pictures(record, report))
            if record.status == "paused" and not told(_paused_key(record)):
                self.paused(record)
            if record.status in ("running", "paused"):
                continue
            if not told(_key(record, "ended")):
                self.ended(record, Outcome(record.status, record.reason), model_of(record))

    def _trial(self, record: TrialRecord) -> str:
        """The trial's name below the search: its number, or `confirm/3` in a sibling study."""
        if record.study == self._study:
            return f"{record.number}"
        return f"{record.study.removeprefix(f'{self._study}/')}/{record.number}"

    def _put(
        self, kind: str, key: str | None = None, record: TrialRecord | None = None, **payload: Any
    ) -> None:
        if record is not None:
            payload = {"trial": self._trial(record), **payload}
        self._outbox.put(kind, key=key, study=self._study, uid=self._outbox.uid, **payload)


def _compile_tag(config: Mapping[str, Any]) -> dict[str, str]:
    """What `compile: auto` chose for a trial, and why."""
    if config.get("compile") != "auto":
        return {}
    from meanflow_tune.config import TrialConfig  # heavy, and rarely needed

    return {"compile": str(TrialConfig.from_dict(config).compile_choice)}


def _standing(record: TrialRecord) -> dict[str, Any]:
    """The tags of an ended trial that change while it runs."""
    tags: dict[str, Any] = {"state": record.status, "attempt": record.attempt}
    if record.reason:
        tags["reason"] = record.reason
    if record.reports:
        tags |= {"rung": len(record.reports), "images": record.reports[-1].images}
        if len(record.decisions) >= len(record.reports):
            tags["decision"] = record.decisions[len(record.reports) - 1]
    return tags


def _key(record: TrialRecord, place: str) -> str:
    return f"{record.study}/{record.number}/{place}"


def _model_key(record: TrialRecord) -> str:
    return _key(record, "model")


def _seconds(record: TrialRecord) -> float | None:
    """Of training in the trial's own run; None before its first rung."""
    return record.reports[-1].cost.get("wall_seconds") if record.reports else None


def _reported_key(record: TrialRecord, report: Report) -> str:
    return _key(record, f"repeat/{report.repeat}" if report.repeat else f"images/{report.images}")


def _paused_key(record: TrialRecord) -> str:
    return _key(record, f"paused/{record.reports[-1].images}/attempt/{record.attempt}")
