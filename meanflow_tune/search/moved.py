"""Paths in stored reports, where a study's folder was moved since: they lie in the trial's folder."""

from dataclasses import replace
from pathlib import Path

from meanflow_tune.records import Report


def here(report: Report, folder: Path) -> Report:
    """The report with its artifacts in `folder`, the trial's folder as it is called today."""
    mark = f"/trials/{folder.name}/"
    artifacts = {}
    for name, path in report.artifacts.items():
        _, found, inside = path.rpartition(mark)
        artifacts[name] = str(folder / inside) if found else path
    return report if artifacts == report.artifacts else replace(report, artifacts=artifacts)
