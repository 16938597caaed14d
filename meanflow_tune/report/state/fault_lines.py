"""Faults in words: one line each for the log and the view, and how many there were."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from meanflow_tune.report.state.values import mappings, number, text
from meanflow_tune.report.text import counted

NAMED = 3  # faults in the summary of a command
SHOWN = 5  # faults in `--status`


def fault_line(fault: Mapping[str, Any]) -> str:
    """`slot-1 on node7: rank 1: killed; trial 7 lost 1,024 images; restarts from 4,096 images ...`.

    fault: a record of the broker with the `trial` that it names, "" for none. May hold anything.
    """
    host, trial, action = (text(fault.get(key)) for key in ("host", "trial", "action"))
    where = f"{text(fault.get('slot'))} on {host}" if host else text(fault.get("slot"))
    parts = [f"{where}: {text(fault.get('cause'))}"]
    if trial:
        lost = int(number(fault.get("lost")))
        parts.append(f"{trial} lost {counted(lost, 'image') if lost else 'nothing'}")
    return "; ".join([*parts, *([action] if action else [])])


def fault_lines(value: object, everything: bool = False) -> list[Text]:
    """The count of `SearchLog.state` and its last faults with their time; everything: all that it holds."""
    found = value if isinstance(value, dict) else {}
    total, last = int(number(found.get("total"))), mappings(found.get("last"))
    if not total or not last:
        return []
    shown = last if everything else last[-SHOWN:]
    which = (
        ""
        if total <= len(shown)
        else f", the last {len(shown)}"
        if len(shown) > 1
        else ", the last"
    )
    lines = [Text(f"{counted(total, 'fault')}{which}:", style="yellow")]
    for fault in shown:
        lines.append(Text(f"  {_moment(number(fault.get('time')))} {fault_line(fault)}"))
    return lines


def fault_summary(count: int, last: Sequence[Mapping[str, Any]], log: str) -> str:
    """`3 faults: slot-1 on node7 (rank 1: killed), ...; see search.log`; "" without any.

    last: the newest of `count` faults; log: the file that has them all.
    """
    if not count:
        return ""
    named = []
    for fault in last[-NAMED:]:
        host, cause = text(fault.get("host")), text(fault.get("cause"))
        named.append(f"{text(fault.get('slot'))}{f' on {host}' if host else ''} ({cause})")
    newest = "the last ones " if count > len(named) else ""
    return f"{counted(count, 'fault')}: {newest}{', '.join(named)}; see {log}"


def _moment(seconds: float) -> str:
    """The time of day; with the date unless that is today."""
    try:
        when, now = time.localtime(seconds), time.localtime()
    except (OverflowError, OSError, ValueError):
        return "--:--:--"
    today = when[:3] == now[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", when)
