"""The figures of a run as JSON, and as one Markdown table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu_check.rows import Row, Stage

Outcome = Literal["complete", "failed", "out of time", "interrupted", "not run"]


@dataclass
class Result:
    """What a stage gave; rows also where it did not get to its end."""

    stage: Stage
    outcome: Outcome = "not run"
    seconds: float = 0.0
    error: str = ""
    rows: list[Row] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return self.outcome == "complete" and not any(row.failed for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 1),
            "error": self.error,
            "rows": [row.to_dict() for row in self.rows],
        }


_HEADINGS = (
    *("stage", "network", "precision", "case", "forwards", "ms", "images/s", "MiB", "error"),
    *("time / jvp", "waits", "remark"),
)


def write(folder: Path, results: Sequence[Result], heading: dict[str, str]) -> None:
    """gpu-check.json and gpu-check.md, each replaced whole; heading: the machine and the command."""
    data = {**heading, "stages": [result.to_dict() for result in results]}
    text = f"{heading['machine']}\n\n`{heading['command']}`\n\n{markdown(results)}"
    for name, content in (("gpu-check.json", json.dumps(data, indent=1)), ("gpu-check.md", text)):
        new = folder / f".{name}.new"
        new.write_text(content + "\n")
        new.replace(folder / name)


def markdown(results: Sequence[Result]) -> str:
    """One table: a line per stage with its outcome, followed by its figures."""
    lines = [_HEADINGS, ("---",) * len(_HEADINGS)]
    for result in results:
        outcome = f"**{result.outcome}** in {result.seconds:.0f} s"
        remark = ": ".join(filter(None, (outcome, result.error)))
        lines.append((result.stage.name, *[""] * (len(_HEADINGS) - 2), remark))
        lines += [("", *_cells(row)) for row in result.rows]
    return "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        row.network,
        row.precision,
        row.case,
        shown(row.forwards, ".2f"),
        shown(row.milliseconds, ".2f"),
        shown(row.images_per_second, ".0f"),
        shown(row.mib, ".1f"),
        shown(row.error, ".0e"),
        shown(row.against_jvp, ".2f"),
        shown(row.count, ".1f"),
        f"**FAILED** {row.note}" if row.failed else row.note,
    )


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
