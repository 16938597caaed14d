"""The command `tune`: parse, call, and turn errors into one line and an exit status."""

import signal
import sys
from typing import NoReturn

from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.driver.output import outlive_terminal, say, steady_output
from meanflow_tune.files import hide_password
from meanflow_tune.plan.request import EXIT_INTERRUPTED, UserError
from meanflow_tune.report.commands import search_command


def main(argv: list[str] | None = None, prog: str = "tune.py") -> int:
    """Returns the exit status. prog: how the user called it."""
    arguments = tune_parser(prog).parse_args(argv)
    command = ""
    try:
        request = search_request(arguments)
        if arguments.calibrate and not arguments.dry_run:
            raise UserError("--calibrate belongs to --dry-run: give both, or neither.")
        # Imports wait until the usage is right: torch alone takes seconds.
        if arguments.dry_run:
            from meanflow_tune.driver.dry_run import dry_run

            return dry_run(request, arguments.calibrate, arguments.verbose)
        if arguments.status:
            from meanflow_tune.report.status import show_status

            return show_status(request)
        from meanflow_tune.driver.driver import run

        command = hide_password(search_command(sys.argv, request))
        return run(request, command, quiet=arguments.quiet, verbose=arguments.verbose)
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


def run_process(argv: list[str] | None = None, prog: str = "tune.py") -> NoReturn:
    """`main` as a process of its own."""
    from meanflow_tune.cluster.session import end_process

    steady_output()
    outlive_terminal()
    # Like Ctrl-C also before and after the time in which a stop waits for a safe point.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_process(main(argv, prog))
