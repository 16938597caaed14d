"""Lines on where a search stands and when it will end, from the texts that its driver made."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from meanflow_tune.report.characters import one_line


def standing_lines(state: Mapping[str, Any]) -> list[Text]:
    """The best trial, the teacher's quality, and warnings of trials whose training failed."""
    lines = [Text(one_line(str(state[key]))) for key in ("best", "teacher") if state.get(key)]
    warnings = state.get("warnings") or ()
    return lines + [Text(one_line(str(line)), style="yellow") for line in warnings]


def outlook_lines(state: Mapping[str, Any], picture: bool) -> list[Text]:
    """The lines of `Outlook.to_dict()`; picture: whether there is room for one."""
    lines = [
        Text(one_line(str(state[key])), style=style)
        for key, style in (("forecast", "bold"), ("rungs", "dim"), ("front", ""))
        if state.get(key)
    ]
    if picture:
        drawn = state.get("picture") or ()
        lines += [Text(str(line), style="cyan", no_wrap=True) for line in drawn]
    return lines
