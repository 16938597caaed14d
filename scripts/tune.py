"""Search the settings of second-order MeanFlow training. Without arguments: the main job on digits."""

import shlex
import sys
from pathlib import Path

from meanflow_tune.driver.cli import tune_parser


def main(argv: list[str] | None = None) -> int:
    """Parse, call, and turn errors into one line and an exit status."""
    arguments = tune_parser().parse_args(argv)
    # Imports wait until the usage is right: torch alone takes seconds.
    from pydantic import ValidationError

    from meanflow_tune.config.overrides import describe
    from meanflow_tune.plan.request import SMOKE_SETTINGS, SearchRequest, UserError

    smoke = arguments.smoke_test
    values = vars(arguments)
    modes = ("status", "smoke_test", "dry_run", "calibrate", "verbose", "quiet")
    flags = {name: values.pop(name) for name in modes}
    space_name = Path(arguments.space).stem
    values["study"] = arguments.study or (f"{space_name}-smoke" if smoke else space_name)
    values["trials"] = arguments.trials if arguments.trials is not None else (7 if smoke else 16)
    values["settings"] = (*(SMOKE_SETTINGS if smoke else ()), *arguments.settings)
    values["storage"] = Path(arguments.storage).expanduser().absolute()
    try:
        try:
            request = SearchRequest(**values)
        except ValidationError as error:
            raise UserError("--" + describe(error).replace("_", "-")) from None
        if flags["calibrate"] and not flags["dry_run"]:
            raise UserError("--calibrate belongs to --dry-run: give both, or neither.")
        if flags["dry_run"]:
            from meanflow_tune.driver import dry_run

            return dry_run.dry_run(request, flags["calibrate"], flags["verbose"])
        from meanflow_tune.driver import driver
        from meanflow_tune.report.status import show_status

        if flags["status"]:
            return show_status(request)
        command = shlex.join([sys.executable, *sys.argv])
        return driver.run(request, command, quiet=flags["quiet"], verbose=flags["verbose"])
    except UserError as error:
        if flags["verbose"]:
            raise
        print(f"tune.py: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print(
            "tune.py: interrupted; nothing was lost. Run the same command again to resume.",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    import signal

    from meanflow_tune.cluster.session import end_process

    # Like Ctrl-C also before and after the time in which a stop waits for a safe point.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_process(main())
