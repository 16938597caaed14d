"""Commands in terminals of a given size, and in pipes that go away."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len


@dataclass
class Terminal:
    """A command that runs in a pseudo-terminal, of which it is the session's leader."""

    pid: int
    master: int
    output: bytearray = field(default_factory=bytearray)

    @classmethod
    def start(
        cls, command: Sequence[str], columns: int, rows: int, environment: Mapping[str, str]
    ) -> "Terminal":
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        pid = os.fork()
        if pid == 0:
            try:
                os.login_tty(slave)
                os.execvpe(command[0], list(command), dict(environment))
            finally:
                os._exit(127)
        os.close(slave)
        return cls(pid, master)

    def read_until(self, condition: Callable[[str], bool], seconds: float = 60.0) -> str:
        """Read until the output fulfils a condition or ends."""
        end = time.monotonic() + seconds
        os.set_blocking(self.master, False)
        while time.monotonic() < end and not condition(self.text):
            try:
                data = os.read(self.master, 65_536)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            except OSError:  # the command has ended
                break
            if not data:
                break
            self.output += data
        return self.text

    @property
    def text(self) -> str:
        return self.output.decode("utf-8", "replace")

    def close(self) -> None:
        """As a window is closed: SIGHUP, and what is written from then on fails with EIO."""
        os.close(self.master)

    def wait(self, seconds: float = 60.0) -> int:
        """The exit status."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(self.text[-2000:])


@dataclass
class Screen:
    """What a terminal of so many columns has shown in the end, and the lines that it had to wrap."""

    columns: int
    lines: list[str] = field(default_factory=lambda: [""])
    wrapped: list[str] = field(default_factory=list)

    def show(self, text: str) -> "Screen":
        row, column = 0, 0
        for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", text):
            if part == "\r":
                column = 0
            elif part == "\n":
                row, column = row + 1, 0
                if row == len(self.lines):
                    self.lines.append("")
            elif part.startswith("\x1b["):
                if part.endswith("A"):
                    row -= int(part[2:-1] or 1)
                elif part.endswith("K"):
                    self.lines[row] = ""
            elif part:
                line = self.lines[row][:column].ljust(column) + part
                self.lines[row], column = line, column + len(part)
                if cell_len(line) > self.columns:
                    self.wrapped.append(line)
        return self
