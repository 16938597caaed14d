"""The trials of a study as `--status` shows them: as plain data of status.json, and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from meanflow_tune.records import TrialRecord
from meanflow_tune.report.characters import one_line
from meanflow_tune.report.state.values import mappings, number, text
from meanflow_tune.report.text import COLOURS, counted, figure, make_table


@dataclass(frozen=True)
class TrialRow:
    """A trial. images: at its last rung, of the budget `of`; values: its objectives there."""

    number: int
    what: str
    status: str
    images: int
    of: int
    values: tuple[float, ...]
    reason: str = ""

    @classmethod
    def make(cls, record: TrialRecord) -> "TrialRow":
        images = record.reports[-1].images if record.reports else 0
        of = int(record.config.get("budget", {}).get("images", 0))
        told = record.reason if record.status not in ("completed", "pruned") else ""
        return cls(record.number, record.what, record.status, images, of, record.values, told)


@dataclass(frozen=True)
class StudyState:
    """What is shown of the trials of a study: `rows`, ascending, of `count` trials in all.

    done: counts by status; paused, running: numbers of such trials, the first few or all.
    """

    count: int
    done: Mapping[str, int]
    rows: tuple[TrialRow, ...]
    paused: tuple[int, ...]
    running: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_state(value: object) -> StudyState | None:
    """The state of `StudyState.to_dict`, of a file that may hold anything; None where it holds none."""
    if not isinstance(value, dict) or not isinstance(value.get("done"), dict):
        return None
    rows = [_read_row(row) for row in mappings(value.get("rows"))]
    count = int(number(value.get("count")))
    if len(rows) > count or (count and not rows):
        return None
    done = {text(status): int(number(n)) for status, n in value["done"].items()}
    lists = (_numbers(value.get(key)) for key in ("paused", "running"))
    return StudyState(count, done, tuple(rows), *lists)


def _read_row(row: Mapping[str, Any]) -> TrialRow:
    values = row.get("values")
    return TrialRow(
        number=int(number(row.get("number"))),
        what=text(row.get("what")),
        status=text(row.get("status")),
        images=int(number(row.get("images"))),
        of=int(number(row.get("of"))),
        values=tuple(map(number, values if isinstance(values, list) else ())),
        reason=text(row.get("reason")),
    )


def _numbers(value: object) -> tuple[int, ...]:
    return tuple(int(number(each)) for each in value) if isinstance(value, list) else ()


def show_trials(console: Console, state: StudyState, running: Sequence[Mapping[str, Any]]) -> None:
    """Print a table of trials, then why some of them ended; running: how far those are that run."""
    now = {row.get("name"): row for row in running}
    table = make_table("trial", "what", "state", "images", "objective", text=3)
    for row in state.rows:
        live = now.get(f"trial {row.number}", {})
        images, of = live.get("images") or row.images, live.get("of") or row.of
        table.add_row(
            str(row.number),
            one_line(row.what),
            str(live.get("phase") or row.status),
            f"{images:,} / {of:,}",
            ", ".join(map(figure, row.values)),
            style=COLOURS.get(row.status, ""),
        )
    console.print(table)
    if len(state.rows) < state.count:
        console.print(
            f"{len(state.rows)} of {counted(state.count, 'trial')}: those that run, the best and the "
            "newest; --status --all shows all",
            style="dim",
        )
    for row in state.rows:
        if row.reason:
            style = COLOURS.get(row.status, "")
            console.print(f"trial {row.number} {row.status}: {one_line(row.reason)}", style=style)
