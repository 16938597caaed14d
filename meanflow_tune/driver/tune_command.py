"""The command `tune`: parse, call, and turn errors into one line and an exit status."""

import argparse
import signal
import sys
from typing import NoReturn

from meanflow_tune.driver.cli import check_modes, search_request, tune_parser
from meanflow_tune.driver.output import outlive_terminal, say, steady_output
from meanflow_tune.files import hide_password
from meanflow_tune.plan.request import EXIT_INTERRUPTED, SearchRequest, UserError
from meanflow_tune.report.commands import search_command


def main(argv: list[str] | None = None, prog: str = "tune.py") -> int:
    """Returns the exit status. prog: how the user called it."""
    arguments = tune_parser(prog).parse_args(argv)
    command = ""
    try:
        check_modes(arguments)
        request = search_request(arguments)
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
        from meanflow_tune.driver.driver import run
        from meanflow_tune.driver.handling.on_end import reporting_end

        command = hide_password(search_command(sys.argv, request))
        with reporting_end(request) as end:
            end.status = run(request, command, quiet=arguments.quiet, verbose=arguments.verbose)
        return end.status
    except UserError as error:
        if arguments.verbose:
            raise
        again = f"\n  {command}" if command and error.repeat else ""
        say(f"{prog}: {error}{again}")
        return error.status
    except KeyboardInterrupt:
        how = f"Resume with:\n  {command}" if command else "Nothing was started."
        say(f"{prog}: interrupted; nothing was lost. {how}")
        return EXIT_INTERRUPTED


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
    from meanflow_tune.cluster.session import end_process

    steady_output()
    outlive_terminal()
    # Like Ctrl-C also before and after the time in which a stop waits for a safe point.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_process(main(argv, prog))
