"""What waits for what, in one place: trials and slots of a running search, and events for MLflow."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from meanflow_tune.records import NO_ANSWER, NO_TEACHER, TEACHER
from meanflow_tune.report.text import about
from meanflow_tune.training.disk_wait import NO_SPACE

NAMED = 8
# States of a slot in which it waits, with the words before its detail.
WORDS = {"starting": "to start", "waiting": "for", "restarting": "to restart"}


def waits(
    rows: Mapping[int, Mapping[str, Any]], snapshot: Mapping[str, Any], label: str
) -> list[str]:
    """A line per wait: who, for what, and how long where that is known.

    rows: the running trials with their `phase`; snapshot: the broker's; label: what a user calls a trial.
    """
    retries: Mapping[int, Mapping[str, Any]] = snapshot.get("retries", {})
    lines = []
    for number, retry in sorted(retries.items()):
        when = f"in {about(retry['due_s'])}" if retry["due_s"] else "by the next free slot"
        lines.append(f"{label} {number} for its retry {when} ({retry['cause']})")
    fresh = [number for number in snapshot.get("queued", ()) if number not in retries]
    if fresh:
        lines.append(f"{named(label, fresh)} for a free slot")
    return [*lines, *_shared(rows, label), *_slots(snapshot.get("slots", {}))]


def named(label: str, members: Sequence[object]) -> str:
    """`trial 3`, `trials 3, 4 and 5`; after NAMED of them `and 12 more`."""
    shown = [str(member) for member in members[:NAMED]]
    if len(members) == 1:
        return f"{label} {shown[0]}"
    rest = len(members) - len(shown)
    last = f"{rest:,} more" if rest else shown.pop()
    return f"{label}s {', '.join(shown)} and {last}"


def _shared(rows: Mapping[int, Mapping[str, Any]], label: str) -> list[str]:
    """Trials that wait for the same: a teacher that another one trains, or space on one disk."""
    phases: dict[str, list[int]] = defaultdict(list)
    full: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, row in sorted(rows.items()):
        phases[str(row.get("phase"))].append(number)
        if row.get("phase") == NO_SPACE:
            full[str(row.get("folder")), str(row.get("free"))].append(number)
    lines = []
    if phases[NO_TEACHER]:
        which = f" that {named(label, phases[TEACHER])} trains" if phases[TEACHER] else ""
        lines.append(f"{named(label, phases[NO_TEACHER])} for the teacher{which}")
    if phases[NO_ANSWER]:
        lines.append(f"{named(label, phases[NO_ANSWER])} for the storage, which does not answer")
    for (folder, free), numbers in full.items():
        lines.append(f"{named(label, numbers)} for disk space in {folder} ({free})")
    return lines


def _slots(slots: Mapping[str, Mapping[str, Any]]) -> list[str]:
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    longest: dict[tuple[str, str], float] = defaultdict(float)
    for name, slot in slots.items():
        state = slot.get("state", "")
        if state in WORDS and slot["number"] is None:
            key = state, slot.get("detail", "")
            alike[key].append(name)
            longest[key] = max(longest[key], slot.get("state_s", 0.0))
    return [
        f"{named('slot', [name.removeprefix('slot-') for name in names])} {WORDS[state]}"
        f"{f' {detail}' if state == 'waiting' else f': {detail}' if detail else ''}"
        f" (for {about(longest[state, detail])})"
        for (state, detail), names in alike.items()
    ]
