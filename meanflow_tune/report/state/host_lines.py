"""Hosts and their slots: one line per host in the live view, and one per slot in `--status`."""

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from meanflow_tune.report.state.host_state import Gpu, HostState, SlotState
from meanflow_tune.report.text import about, counted

GAP = "  "
SHORTEST = 34  # of the words on a host's slots
WRONG = "yellow"
GIB = 2**30


def host_lines(hosts: Sequence[HostState], width: int, most: int) -> list[Text]:
    """At most `most` lines, none wider than `width`: one per host, or, where there are more hosts, a line
    on all of them and the hosts where something is wrong."""
    if not hosts or most < 1:
        return []
    if len(hosts) <= most:
        return _aligned(hosts, width)
    wrong = [host for host in hosts if not host.well]
    shown = wrong[: most - 1]
    if len(wrong) > len(shown):
        shown = wrong[: max(most - 2, 0)]
    lines = [_cut(Text(_summary(hosts)), width), *_aligned(shown, width)]
    if left := len(wrong) - len(shown):
        lines.append(Text(f"and {counted(left, 'more host')} with a slot that does not run", WRONG))
    return [_cut(line, width) for line in lines[:most]]


def slot_lines(hosts: Sequence[HostState], most: int | None) -> list[Text]:
    """Each host with a line per slot; of more than `most` slots, those where something is wrong."""
    rows = [(host, slot) for host in hosts for slot in host.slots]
    lines = []
    if most is not None and len(rows) > most:
        lines.append(Text(_summary(hosts)))
        rows = [row for row in rows if not row[1].well]
    shown, before = rows[:most], None
    width = max((cell_len(slot.slot) for _, slot in shown), default=0)
    for host, slot in shown:
        if host is not before:
            parts = _filled([host.host, size(host.memory), *_gpu_cells(host.gpus)])
            lines.append(Text(GAP.join(parts), style="bold"))
        before = host
        words = _filled([f"{_state_words(slot)}", slot.trial])
        name = slot.slot + " " * (width - cell_len(slot.slot))
        style = "" if slot.well else WRONG
        lines.append(Text(f"  {name}{GAP}{', '.join(words)}", style=style))
    if left := len(rows) - len(shown):
        lines.append(Text(f"and {counted(left, 'more slot')} that do not run", style=WRONG))
    return lines


def size(count: int) -> str:
    """Bytes: `1.2 GiB`; "" for none."""
    if not count:
        return ""
    return f"{count / GIB:,.1f} GiB" if count >= 0.1 * GIB else f"{count / 2**20:.0f} MiB"


def _aligned(hosts: Sequence[HostState], width: int) -> list[Text]:
    if not hosts:
        return []
    rows = [(h.host, _slot_words(h.slots), size(h.memory), *_gpu_cells(h.gpus)) for h in hosts]
    used = [any(row[k] for row in rows) for k in range(5)]
    for left_out in ((), (4,), (4, 2), (4, 2, 3)):  # what goes first where there is no room
        columns = [k for k in range(5) if used[k] and k not in left_out]
        widths = {k: max(cell_len(row[k]) for row in rows) for k in columns}
        spare = width - sum(widths.values()) - len(GAP) * (len(columns) - 1)
        if spare >= 0 or widths[1] + spare >= SHORTEST:
            break
    widths[1] = max(widths[1] + min(spare, 0), 1)
    lines = []
    for host, row in zip(hosts, rows, strict=True):
        cells = [_fit(row[k], widths[k], right=k > 1) for k in columns]
        line = Text(GAP.join(cells), style="" if host.well else WRONG, no_wrap=True)
        line.rstrip()
        lines.append(_cut(line, width))
    return lines


def _fit(text: str, width: int, right: bool) -> str:
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…"
    blank = " " * (width - cell_len(text))
    return blank + text if right else text + blank


def _cut(line: Text, width: int) -> Text:
    line.no_wrap = True
    line.truncate(width, overflow="ellipsis")
    return line


def _slot_words(slots: Sequence[SlotState]) -> str:
    """`2 running`, or `1 running, slot-3 restarting: rank 1 was killed (2 s)`."""
    states = Counter(slot.state for slot in slots if slot.well)
    words = [f"{count} {state}" for state, count in sorted(states.items(), reverse=True)]
    return ", ".join([*words, *(_wrong_words(slot) for slot in slots if not slot.well)])


def _wrong_words(slot: SlotState) -> str:
    return f"{slot.slot} {_state_words(slot)}"


def _state_words(slot: SlotState) -> str:
    if slot.well:
        return slot.state
    why = f": {slot.waits_for}" if slot.waits_for else ""
    return f"{slot.state} for {about(slot.seconds)}{why}"


def _gpu_cells(gpus: Sequence[Gpu]) -> tuple[str, str]:
    """`GPU 93 %`, or `8 GPUs 12-98 %`; and `7.0/140 GiB`, summed."""
    if not gpus:
        return "", ""
    known = sorted(gpu.percent for gpu in gpus if gpu.percent is not None)
    name = "GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
    if known:
        low, high = f"{known[0]:.0f}", f"{known[-1]:.0f}"
        name += f" {high} %" if low == high else f" {low}-{high} %"
    used, total = (sum(gpu.used for gpu in gpus), sum(gpu.total for gpu in gpus))
    return name, f"{used / GIB:,.{int(used < 100 * GIB)}f}/{total / GIB:,.0f} GiB"


def _summary(hosts: Sequence[HostState]) -> str:
    """`100 hosts: 196 slots running, 3 ready, 1 silent; 812.0 GiB; 100 GPUs 12-98 %`."""
    states: Counter[str] = Counter()
    for name, slot in {slot.slot: slot for host in hosts for slot in host.slots}.items():
        states[slot.state if name else "without a name"] += 1
    words = ", ".join(f"{count} {state}" for state, count in states.most_common())
    gpus = [gpu for host in hosts for gpu in host.gpus]
    memory = size(sum(host.memory for host in hosts))
    parts = [f"{counted(len(hosts), 'host')}, {counted(sum(states.values()), 'slot')}: {words}"]
    return "; ".join([*parts, *_filled([memory, " ".join(_gpu_cells(gpus)).strip()])])


def _filled(words: Iterable[str]) -> list[str]:
    return [word for word in words if word]
