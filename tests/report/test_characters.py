"""Text that steers no terminal, and its replacements in ASCII."""

import pytest

from meanflow_tune.report.characters import FALLBACK, clean, in_ascii, one_line, shows_ascii_only


def test_what_steers_a_terminal_is_left_out() -> None:
    hostile = "\x1b[31mred\x1b[0m \x1b]0;title\x07name\x1b]8;;http://x\x1b\\link \x9b2Jc1 \x08\x00\u202eabc"
    assert clean(hostile) == "red namelink c1 abc"
    assert clean("a\nb\tc") == "a\nb\tc"
    assert one_line("a\nb\tc\r\nd\u2028e") == "a b c  d e"
    assert clean("file\udcff") == "file\ufffd"
    assert clean("[/usr/lib] 模型 é 🎉") == "[/usr/lib] 模型 é 🎉"


def test_ascii_has_replacements_and_keeps_widths_where_asked() -> None:
    assert in_ascii("0.5 → 0.1 − x…, é ρ ≤ 3 模🎉") == "0.5 -> 0.1 - x..., e rho <= 3 ??"
    line = "│ ▁▄█ ░▓ → … − é ρ ● 模"
    narrow = in_ascii(line, one_cell=True)
    assert narrow == "| _-# .% > ~ - e p * ??"
    assert len(narrow) == len(line) + 1, "the last one is two cells wide"
    assert "→−é".encode("ascii", FALLBACK) == b"->-e"
    assert "\udcff".encode("utf-8", FALLBACK) == b"?"


@pytest.mark.parametrize(
    ("environment", "terminal", "ascii_only"),
    [
        ({"LANG": "C.UTF-8"}, True, False),
        ({}, True, False),
        ({"LANG": "C"}, True, True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True, True),  # as Python itself sets it
        ({"LANG": "C", "LC_CTYPE": "de_DE.UTF-8"}, True, False),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "POSIX"}, False, True),
        ({"LANG": "C", "LC_ALL": "en_US.UTF-8"}, True, False),
        ({"TERM": "dumb"}, True, True),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "dumb", "PYTHONIOENCODING": "utf-8"}, True, False),
    ],
)
def test_which_environments_promise_ascii_only(
    environment: dict[str, str], terminal: bool, ascii_only: bool
) -> None:
    assert shows_ascii_only(environment, terminal) is ascii_only
