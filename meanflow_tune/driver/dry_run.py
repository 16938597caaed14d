"""The plan of a search, in words and figures: `--dry-run`, with `--calibrate` and `-v`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from meanflow_tune import this_machine
from meanflow_tune.cluster.layout import Layout, plan_layout
from meanflow_tune.driver.tracking import check_tracking
from meanflow_tune.plan.calibration import Calibration, Progress, busy, calibrate
from meanflow_tune.plan.plan import Plan, make_plan
from meanflow_tune.plan.request import EXIT_OK, SearchRequest, UserError, usable_folder
from meanflow_tune.records import TrialRecord
from meanflow_tune.report.forecast_tables import Forecast
from meanflow_tune.report.safe_console import make_console
from meanflow_tune.report.space_plots import show_plots
from meanflow_tune.report.text import better, counted, headed, make_table, short, size
from meanflow_tune.search.errors import SpaceError, StorageError
from meanflow_tune.search.space.describe import find_parameters
from meanflow_tune.search.space.draws import draw_random
from meanflow_tune.search.store.manifest import MANIFEST_NAME
from meanflow_tune.search.store.storage import open_storage
from meanflow_tune.search.store.trials import read_records
from meanflow_tune.search.study.relocate import find_study

DRAWN = 3  # configurations that are shown, and timed
VARIETY = 96  # draws that are searched for one member of each family


def dry_run(request: SearchRequest, calibrating: bool = False, verbose: bool = False) -> int:
    """Check everything that can be checked without Ray, and print what the search would do.

    Returns the exit status; raises UserError. Writes nothing in the study.
    """
    usable_folder(request.storage)
    warning = check_tracking(request)
    plan = make_plan(request)
    console = make_console()
    _show_goal(console, plan)
    _show_space(console, plan)
    _show_draws(console, plan)
    if verbose:
        drawn = [draw_random(plan.space.suggest, seed).config for seed in range(VARIETY)]
        show_plots(console, [*plan.examples, *drawn])
    layout = _layout(request)
    _show_resources(console, plan, layout)
    records = _stored(request)
    measured = _calibrate(console, plan, layout) if calibrating else None
    Forecast(console, plan, layout, records, measured).show()
    if warning:
        console.print(Text(f"\n{warning}"))
    console.print("\nNothing was started.")
    return EXIT_OK


def _show_goal(console: Console, plan: Plan) -> None:
    listed = [better(part) for part in plan.objectives.parts]
    console.print(headed(plan.request.study, f": {plan.space.goal}"))
    if len(listed) == 1:
        console.print(f"objective: {listed[0]}")
    else:
        console.print(f"{len(listed)} objectives: {'; '.join(listed)}")


def _show_space(console: Console, plan: Plan) -> None:
    """Each parameter with its range and its condition; the baselines; the settings that --set fixed."""
    space, request = plan.space, plan.request
    try:
        parameters = find_parameters(space.suggest, space.baselines)
    except SpaceError as error:
        raise UserError(f"--space {request.space}: {error}") from None
    console.print()
    console.print(headed(f"The space {space.name}", f": {len(parameters)} parameters"))
    width = 4 + max(len(parameter.name) for parameter in parameters)
    condition = ""
    for parameter in parameters:
        if parameter.condition != condition:
            condition = parameter.condition
            if condition:
                console.print(Padding(Text(condition, style="dim"), (0, 0, 0, 2)))
        indent = 4 if condition else 2
        row = Table.grid(padding=(0, 2))
        row.add_column(width=width - indent)
        row.add_column(overflow="fold")
        row.add_row(parameter.name, parameter.domain)
        console.print(Padding(row, (0, 0, 0, indent)))
    if request.settings:
        console.print(f"fixed by --set: {', '.join(request.settings)}")
    _show_seeds(console, plan)
    others = [name for name in space.baselines if name not in space.reference]
    console.print(f"baselines to beat, never stopped: {', '.join(space.reference) or 'none'}")
    if others:
        console.print(f"other baselines, never stopped: {', '.join(others)}")
    for name, source in space.sources.items():
        console.print(Padding(Text(f"{name}: {source}", style="dim"), (0, 0, 0, 2)))


def _show_seeds(console: Console, plan: Plan) -> None:
    """As the first baseline has them."""
    config = plan.examples[0]
    seeds = {"search": plan.request.seed, "training": config.seed}
    if config.teacher is not None:
        seeds["teacher"] = config.teacher.seed
    if config.evaluation is not None:
        seeds["evaluation latents"] = config.evaluation.latent_seed
    console.print(f"seeds: {', '.join(f'{name} {seed}' for name, seed in seeds.items())}")


def _show_draws(console: Console, plan: Plan) -> None:
    """Three configurations that the search could propose: what differs between them."""
    baselines = len(plan.space.baselines)
    proposed = [config.flat() for config in plan.examples[baselines : baselines + DRAWN]]
    known = dict.fromkeys(key for flat in proposed for key in flat)
    varying = [k for k in known if len({str(flat.get(k)) for flat in proposed}) > 1]
    console.print()
    console.print(headed(f"{DRAWN} configurations of the space", ", where they differ"))
    draws = [f"draw {index + 1}" for index in range(len(proposed))]
    table = make_table("setting", *draws, text=1 + len(draws))
    for key in varying:
        table.add_row(key, *(short(flat.get(key)) for flat in proposed))
    console.print(table)


def _layout(request: SearchRequest) -> Layout | None:
    """What runs at once on this machine; None where the cluster decides."""
    if request.cluster is not None and request.max_concurrent is None:
        return None
    needed = -(-request.workers_per_trial * request.cpus_per_worker // 1)
    here = {"CPU": max(this_machine.processors(), needed), "GPU": float(this_machine.gpus())}
    return plan_layout(
        here,
        request.workers_per_trial,
        request.cpus_per_worker,
        request.gpus_per_worker,
        request.max_concurrent,
        this_machine.memory() if request.cluster is None else None,
    )


def _show_resources(console: Console, plan: Plan, layout: Layout | None) -> None:
    request = plan.request
    ranks = counted(request.workers_per_trial, "rank")
    if layout is None:
        gpus = request.gpus_per_worker
        wanted = "a GPU where there are enough" if gpus is None else f"{gpus:g} GPU"
        text = f"{ranks} of {request.cpus_per_worker:g} CPU and {wanted}"
        at_once = "how many run at once depends on the cluster"
    else:
        text = f"{ranks} of {layout.cpus:g} CPU" + (
            f" and {layout.gpus:g} GPU" if layout.gpus else ", no GPU"
        )
        where = "on the cluster" if request.cluster is not None else "on this machine"
        bound = f" ({layout.memory})" if layout.memory is not None else ""
        at_once = f"{counted(layout.slots, 'trial')} at once {where}{bound}"
    console.print()
    console.print(headed("Resources", f" per trial: {text}; {at_once}"))
    if layout is not None and layout.warning:
        console.print(layout.warning, style="yellow")


def _stored(request: SearchRequest) -> list[TrialRecord]:
    """The trials that the study holds already; none where it has not begun."""
    if not (request.folder / MANIFEST_NAME).exists():
        return []
    try:
        storage = open_storage(find_study(request.folder, request.study_storage))
        return read_records(storage, request.study, request.folder)
    except StorageError:
        return []


def _calibrate(console: Console, plan: Plan, layout: Layout | None) -> Calibration:
    """Time the first baseline and the drawn configurations, and print what they took."""
    import torch

    request = plan.request
    baselines = len(plan.space.baselines)
    first = min(baselines, 1)
    named = list(zip(plan.space.baselines, plan.examples[:first], strict=False))
    named += [(f"draw {k + 1}", plan.examples[baselines + k]) for k in range(DRAWN)]
    on_gpu = torch.cuda.is_available() and (layout is None or layout.gpus > 0)
    shared = busy()
    with _progress(console) as progress:
        found = calibrate(
            named,
            first,
            request.teachers,
            request.workers_per_trial,
            "cuda" if on_gpu else "cpu",
            progress,
        )
    console.print()
    console.print(headed("Calibration", f" on {found.device}, in the middle of training"))
    table = make_table("", "per step", "10 to 90 %", "evaluation", "checkpoint")
    for timing in found.timings:
        if timing.trouble:
            continue
        low, high = timing.spread
        assert timing.sizes is not None
        table.add_row(
            timing.name,
            f"{1e3 * timing.median:.2f} ms",
            f"{1e3 * low:.2f} to {1e3 * high:.2f} ms",
            f"{timing.evaluation:.2f} s",
            f"{size(timing.sizes.checkpoint)}, {1e3 * timing.checkpoint:.0f} ms",
        )
    console.print(table)
    for timing in found.timings:
        if timing.trouble:
            console.print(f"{timing.name} could not be timed: {timing.trouble}", style="red")
    if shared:
        console.print(f"{shared}; these times are too long", style="yellow")
    if request.workers_per_trial > 1:
        console.print("steps are those of one rank alone, without the communication between ranks")
    return found


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    """One line that changes in place; without a terminal, one line per label."""
    if console.is_terminal:
        with Live(console=console, transient=True, refresh_per_second=8) as live:

            def show(what: str, done: int, of: int) -> None:
                bar = "█" * round(20 * done / of) if of else ""
                live.update(Text(f"calibrating: {what}  {bar}", no_wrap=True))

            yield show
        return
    printed: set[str] = set()

    def print_once(what: str, done: int, of: int) -> None:
        if what not in printed:
            printed.add(what)
            print(f"calibrating: {what}", file=sys.stderr, flush=True)

    yield print_once
