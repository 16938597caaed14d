"""Search hyper-parameters of second-order MeanFlow training. Without arguments: the main job on digits."""

import shlex
import sys

from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.plan.request import EXIT_INTERRUPTED, UserError


def main(argv: list[str] | None = None) -> int:
    """Parse, call, and turn errors into one line and an exit status."""
    arguments = tune_parser().parse_args(argv)
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

        command = shlex.join([sys.executable, *sys.argv])
        return run(request, command, quiet=arguments.quiet, verbose=arguments.verbose)
    except UserError as error:
        if arguments.verbose:
            raise
        print(f"tune.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(
            "tune.py: interrupted; nothing was lost. Run the same command again to resume.",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    import signal

    from meanflow_tune.cluster.session import end_process

    # Like Ctrl-C also before and after the time in which a stop waits for a safe point.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_process(main())
