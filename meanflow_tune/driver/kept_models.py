"""Which trials' models are logged and kept on disk (`--keep-models`)."""

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from meanflow_tune.plan.findings import Findings
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.result_files import model_of

log = logging.getLogger(__name__)


def needed(findings: Findings) -> set[int]:
    """Trials whose models stay whatever was asked for: best.json's, and those of the answer."""
    baseline = next((r for r in findings.order if r.baseline is not None), None)
    named = (findings.leader, findings.best_proposed, findings.reference, baseline)
    return {record.number for record in named if record is not None}


def to_log(request: SearchRequest, findings: Findings) -> list[TrialRecord]:
    """Completed trials of the search whose models are logged at its end: all, none, or the best and what
    the registry needs."""
    best = request.best_models
    if best is None:
        return list(findings.order)
    if best == 0:
        return []
    kept = {record.number for record in findings.order[:best]} | needed(findings)
    return [record for record in findings.order if record.number in kept]


def remove_others(request: SearchRequest, findings: Findings) -> None:
    """Delete the exported models that are not kept; the checkpoints stay, and a student loads from them."""
    if request.best_models is None:
        return
    kept = {record.number for record in to_log(request, findings)} | needed(findings)
    others = [r for r in findings.records if r.status == "completed" and r.number not in kept]
    _remove(model_of(record) for record in (*others, *findings.confirmed))


def _remove(folders: Iterable[Path | None]) -> None:
    for folder in folders:
        if folder is None:
            continue
        try:
            shutil.rmtree(folder)
        except OSError as error:
            log.warning("the model %s stays: %s", folder, error.strerror)
