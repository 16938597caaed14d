"""The command `tune`: parse, call, and turn errors into one line and an exit status."""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import NoReturn

from meanflow_tune.cluster.signals import stop_at_once
from meanflow_tune.driver.cli import check_modes, search_request, tune_parser
from meanflow_tune.driver.output import outlive_terminal, say, steady_output
from meanflow_tune.driver.process.home import ensure_home
from meanflow_tune.driver.process.search_process import Ending, Tell, run_in_child
from meanflow_tune.plan.request import EXIT_INTERRUPTED, EXIT_UNUSABLE, SearchRequest, UserError
from meanflow_tune.remote.location import shown_storage, storage_of
from meanflow_tune.report.commands import search_command, with_remedy

Again = Callable[[], str]  # the command to repeat, for a user


def main(argv: list[str] | None = None, prog: str = "tune.py", own_process: bool = False) -> int:
    """Returns the exit status. prog: how the user called it; own_process: whether it may fork."""
    arguments = tune_parser(prog).parse_args(argv)
    again: Again | None = None
    try:
        check_modes(arguments)
        request = search_request(arguments)
        if storage_of(request.storage) is not None:
            _prepare_remote(arguments, request)
        # Imports wait until the usage is right: torch alone takes seconds.
        if arguments.dry_run:
            from meanflow_tune.driver.dry_run import dry_run

            return dry_run(request, arguments.calibrate, arguments.verbose)
        if arguments.status:
            from meanflow_tune.report.status import show_status

            return show_status(request, arguments.all)
        if (
            arguments.stop_trial
            or arguments.enqueue
            or arguments.delete_study
            or arguments.dashboard
        ):
            return _handle(arguments, request)
        command = search_command(sys.argv, request)
        again = partial(_again, command, request, _state(request))
        shown = {"quiet": arguments.quiet, "verbose": arguments.verbose}
        if own_process and request.cluster is not None:
            return _supervise(request, command, again, prog, **shown)
        return _search(request, command, again, prog, **shown)
    except UserError as error:
        if arguments.verbose:
            raise
        _say_error(prog, error, again)
        return error.status
    except KeyboardInterrupt:
        how = "Nothing was started."
        if again is not None:
            how = f"Resume with:\n  {again()}"
        say(f"{prog}: interrupted; nothing was lost. {how}")
        return EXIT_INTERRUPTED


def _search(request: SearchRequest, command: str, again: Again, prog: str, **shown: bool) -> int:
    """Search in this process; its errors are the caller's to say."""
    from meanflow_tune.driver.driver import run
    from meanflow_tune.driver.handling.on_end import reporting_end

    def abandon(error: UserError) -> NoReturn:
        _say_error(prog, error, again)
        _run_on_end(request, error.status, str(error))
        os._exit(error.status)

    with reporting_end(request) as end:
        end.status = run(request, command, **shown, give_up=abandon)
    return end.status


def _supervise(request: SearchRequest, command: str, again: Again, prog: str, **shown: bool) -> int:
    """Search in a child process; again, where its cluster is lost and the user wants to wait."""
    search = partial(_search_as_child, request, command, again, prog, shown)
    while (ending := run_in_child(search)).lost:
        if request.wait_for_cluster is None:
            _say_error(prog, UserError(ending.lost, EXIT_UNUSABLE, repeat=True), again)
            break
        say(f"{prog}: {ending.lost}; waiting up to {request.wait_for_cluster:.0f} s for a cluster")
    _run_on_end(request, ending.status, ending.lost or ending.error)
    return ending.status


def _search_as_child(
    request: SearchRequest,
    command: str,
    again: Again,
    prog: str,
    shown: Mapping[str, bool],
    report: Tell,
) -> int:
    """Search, say errors, and report to the parent, which says that the cluster is lost."""
    from meanflow_tune.driver.driver import run

    def abandon(error: UserError) -> NoReturn:
        report(Ending(error.status, lost=str(error)))
        os._exit(error.status)

    ending = Ending(1)
    try:
        ending = Ending(run(request, command, **shown, give_up=abandon))
    except UserError as error:
        if error.lost:
            ending = Ending(error.status, lost=str(error))
        elif shown["verbose"]:
            raise
        else:
            ending = Ending(error.status, error=str(error))
            _say_error(prog, error, again)
    except KeyboardInterrupt:
        ending = Ending(EXIT_INTERRUPTED)
        raise
    except BaseException as error:
        ending = Ending(1, error=f"{type(error).__name__}: {error}")
        raise
    finally:
        report(ending)
    return ending.status


def _run_on_end(request: SearchRequest, status: int, error: str) -> None:
    if request.on_end is not None:
        from meanflow_tune.driver.handling.on_end import End, environment, run_command

        run_command(request.on_end, environment(request, End(status, error)))


def _say_error(prog: str, error: UserError, again: Again | None) -> None:
    repeated = f"\n  {again()}" if again is not None and error.repeat else ""
    say(f"{prog}: {error}{repeated}")


def _state(request: SearchRequest) -> tuple[float, ...]:
    """Changes when a search puts its folder aside, and when it has taken its options into its manifest."""
    from meanflow_tune.search.store.manifest import MANIFEST_NAME

    seen: list[float] = []
    for path in (request.folder, request.folder / MANIFEST_NAME):
        with contextlib.suppress(OSError):
            found = path.stat()
            seen += [found.st_ino] if path == request.folder else [found.st_ino, found.st_mtime_ns]
    return tuple(seen)


def _again(command: str, request: SearchRequest, seen: tuple[float, ...]) -> str:
    """The command to repeat: as it was called where the search has not begun yet."""
    begun = _state(request) != seen
    return with_remedy(command if begun else search_command(sys.argv, request, begun=False))


def _prepare_remote(arguments: argparse.Namespace, request: SearchRequest) -> None:
    """Where the storage is a URL: refuse what needs a folder, and fetch what a reading command shows."""
    named = {
        "--stop-trial": arguments.stop_trial,
        "--enqueue": arguments.enqueue,
        "--delete-study": arguments.delete_study,
    }
    refused = [flag for flag, given in named.items() if given]
    if refused:
        raise UserError(
            f"{refused[0]}: not for a storage that is a URL ({shown_storage(request.storage)}), whose driver"
            " hears nothing from another terminal; stop the search and change its command."
        )
    if arguments.status or arguments.dashboard is not None or arguments.dry_run:
        from meanflow_tune.driver.handling.remote_study import fetch_status

        fetch_status(request)


def _handle(arguments: argparse.Namespace, request: SearchRequest) -> int:
    if arguments.delete_study:
        from meanflow_tune.driver.handling.deletion import delete_study

        return delete_study(request, yes=arguments.yes, keep_mlflow=arguments.keep_mlflow)
    if arguments.dashboard is not None:
        from meanflow_tune.driver.handling.dashboard import show_dashboard

        return show_dashboard(request, arguments.dashboard)
    from meanflow_tune.driver.handling import asking

    if arguments.enqueue is not None:
        return asking.enqueue(request, arguments.enqueue)
    return asking.stop_trials(request, arguments.stop_trial)


def run_process(argv: list[str] | None = None, prog: str = "tune.py") -> NoReturn:
    """`main` as a process of its own."""
    from meanflow_tune.cluster.connection.session import CLOSED, end_process

    steady_output()
    outlive_terminal()
    ensure_home()
    os.environ.update(CLOSED)
    # Like Ctrl-C also before and after the time in which a stop waits for a safe point.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop_at_once)
    end_process(main(argv, prog, own_process=True))
