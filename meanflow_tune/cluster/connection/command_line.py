"""The command line of this process, as `ps` and Ray's list of jobs show it."""

from pathlib import Path

from meanflow_tune.urls import hide_password


def hide_arguments() -> None:
    """Hide the passwords in it; before Ray starts or is joined, which takes the driver's as a job's name."""
    try:
        line = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    except OSError:  # not Linux
        return
    text = line.decode(errors="replace")
    hidden = hide_password(text)
    if hidden != text:
        from ray import _raylet

        _raylet.setproctitle(hidden)  # type: ignore[attr-defined]
