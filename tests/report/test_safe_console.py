"""The console takes text as it is; tables fit it, and never fold a number."""

import io

import pytest
from rich.cells import cell_len
from rich.padding import Padding
from rich.text import Text

from meanflow_tune.report.safe_console import PIPE_WIDTH, SafeConsole, make_console
from meanflow_tune.report.text import headed, make_table

HOSTILE = "[/usr/lib] [Errno 28] [bold]x[/] :warning: \x1b[31m\x1b]0;t\x07 a\u202eb 模🎉"


def printed(*renderables: object, width: int = 80, plain: bool = False) -> str:
    file = io.StringIO()
    console = SafeConsole(plain, file=file, width=width)
    for renderable in renderables:
        console.print(renderable)
    return file.getvalue()


def test_no_text_is_markup_or_steers_the_terminal() -> None:
    table = make_table(HOSTILE, "number")
    table.title = HOSTILE
    table.add_row(HOSTILE, "1")
    given = [HOSTILE, Text(HOSTILE), Padding(HOSTILE, 1), headed(HOSTILE, HOSTILE), table]
    text = printed(*given, width=200)
    assert text.count("[/usr/lib] [Errno 28] [bold]x[/] :warning:") == 8
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


@pytest.mark.parametrize("width", [200, 60, 20])
def test_ascii_output_has_no_other_character_and_no_longer_line(width: int) -> None:
    table = make_table("é−…", "n")
    table.add_row("→ ▁▄█ ρ 模" * 3, "0.0933577")
    text = printed(HOSTILE, table, Text("─│é"), width=width, plain=True)
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= width


def results(width: int) -> list[str]:
    table = make_table("trial", "gap@1", "gap@2", "gap@4")
    table.add_row("reference: trial 0 (baseline meanflow_cifar10_lr_mid)", *["0.0933577"] * 3)
    return printed(table, width=width).splitlines()


@pytest.mark.parametrize("width", [140, 80, 60, 40, 20])
def test_numbers_are_whole_at_any_width(width: int) -> None:
    lines = results(width)
    assert all(cell_len(line) <= width for line in lines)
    assert "\n".join(lines).count("0.0933577") == 3


def test_a_table_that_does_not_fit_becomes_a_list() -> None:
    lines = results(30)
    assert lines[-3:] == ["  gap@1: 0.0933577", "  gap@2: 0.0933577", "  gap@4: 0.0933577"]


@pytest.mark.parametrize(
    ("columns", "width"),
    [("72", 72), ("5", 20), ("0", PIPE_WIDTH), ("wide", PIPE_WIDTH), (None, PIPE_WIDTH)],
)
def test_a_pipe_is_as_wide_as_columns_say(
    columns: str | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert make_console().width == width


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setenv("NO_COLOR", "1")
    SafeConsole(file=file, force_terminal=True, width=80).print("text", style="red")
    assert "31" not in file.getvalue()
