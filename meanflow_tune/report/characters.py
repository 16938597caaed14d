"""Characters for a terminal: none that steer it, and ASCII where it shows no others."""

import codecs
import os
import re
import unicodedata
from collections.abc import Mapping

# CSI and OSC sequences (colours, titles, links), then any other escape.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?|\x1b[ -~]?"
)
# Controls but tab and newline, and the marks that reverse the order of what follows.
_STEERING = {
    **dict.fromkeys(c for c in range(0x20) if c not in (0x09, 0x0A)),
    **dict.fromkeys(range(0x7F, 0xA0)),
    **dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))),
}
_BREAKS = {0x09: " ", 0x0A: " ", 0x0D: " ", 0x85: " ", 0x2028: " ", 0x2029: " "}
_LONE = re.compile(r"[\ud800-\udfff]")  # bytes of a file name that are no text

_ONE_CELL = {
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212─━╴╶╸╺═", "-"),
    **dict.fromkeys("│┃║╎", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝", "+"),
    **dict.fromkeys("\u2018\u2019", "'"),
    **dict.fromkeys("\u201c\u201d", '"'),
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
    **dict(zip("░▒▓", ".:%", strict=True)),
    **dict(zip("·•●○×→←…", ".**ox><~", strict=True)),
    **dict(zip("µμρσ≈∞", "uups~8", strict=True)),
    "\u00a0": " ",
}
_LONGER = {
    **dict(zip("→←…±≤≥≠", ("->", "<-", "...", "+/-", "<=", ">=", "!="), strict=True)),
    **dict(zip("ρσ∞√ß", ("rho", "sigma", "inf", "sqrt", "ss"), strict=True)),
}
FALLBACK = "meanflow_ascii"  # an error handler of Python's codecs


def clean(text: str) -> str:
    """The text without what would steer a terminal; its line breaks stay."""
    return _LONE.sub("\ufffd", _ESCAPES.sub("", text).translate(_STEERING))


def one_line(text: str) -> str:
    """The same with line breaks and tabs as spaces."""
    return clean(_ESCAPES.sub("", text).translate(_BREAKS))


def in_ascii(text: str, one_cell: bool = False) -> str:
    """The text with replacements such as `->`; one_cell: each as wide as what it replaces."""
    return text if text.isascii() else "".join(_ascii(c, one_cell) for c in text)


def _ascii(character: str, one_cell: bool) -> str:
    if character.isascii():
        return character
    known = (_ONE_CELL if one_cell else _LONGER).get(character) or _ONE_CELL.get(character)
    if known is not None:
        return known
    base = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    if base and (len(base) == 1 or not one_cell):
        return base
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return ""  # combining marks, which have no width
    return "??" if one_cell and unicodedata.east_asian_width(character) in "WF" else "?"


def shows_ascii_only(environment: Mapping[str, str] = os.environ, terminal: bool = True) -> bool:
    """Whether the environment promises no more than ASCII: the locale C or POSIX, or a dumb terminal.

    Python itself prints UTF-8 in the locale C, and sets LC_CTYPE to C.UTF-8 there.
    """
    if environment.get("PYTHONIOENCODING", "").lower().startswith("utf"):
        return False
    if terminal and environment.get("TERM", "").lower() == "dumb":
        return True
    if name := environment.get("LC_ALL"):
        return name in ("C", "POSIX")
    coerced = environment.get("LC_CTYPE", "C") in ("C", "POSIX", "C.UTF-8")
    return coerced and environment.get("LANG") in ("C", "POSIX")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


codecs.register_error(FALLBACK, _replace)
