"""Secrets in URLs: hidden wherever one is printed, logged or stored."""

import re
from typing import Any

HIDDEN = "***"

# The user's name goes, too: for some servers it is a token. Not that of a database without a password, whose
# URL is to be used again as it is shown. An HTTP client ends the name of the host at the first slash; a
# database's password may contain one.
_HTTP = re.compile(r"([\w+.-]{0,40}://)([^\s/?#'\"]+)@")
_NAMES_DATABASE = re.compile(r"(?:postgresql|mysql|mariadb)(?:\+\w+)?://", flags=re.IGNORECASE)
_OTHER = re.compile(
    r"(?<![Hh][Tt][Tt][Pp]://)(?<![Hh][Tt][Tt][Pp][Ss]://)(?<=://)[^\s:/@'\"]*:[^\s@'\"]*@"
)
# Parameters of a URL, by a part of their name or by the whole of it.
_PARAMETER = re.compile(
    r"((?:[?&]|&amp;)(?:[\w.%-]{0,40}(?:password|passwd|passphrase|pwd|secret|token|api[-_]?key|"
    r"access[-_]?key|account[-_]?key|signature|credential|odbc_connect)[\w.%-]{0,40}|"
    r"sig|key|pass|pw|auth|jwt)=)[^\s&#'\"]+",
    flags=re.IGNORECASE,
)


def hide_password(text: str) -> str:
    """Text without the user's name, password and keys in the URLs that it contains."""
    if "://" in text:
        text = _HTTP.sub(_without_user, text)
        text = _OTHER.sub(f"{HIDDEN}@", text)
    # Also of a path alone, which is all that an HTTP client may name in an error.
    return _PARAMETER.sub(rf"\1{HIDDEN}", text) if "=" in text else text


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found.groups()
    bare = _NAMES_DATABASE.fullmatch(scheme) and not re.search("[:@]", user)
    return found[0] if bare else f"{scheme}{HIDDEN}@"


def hide_passwords(data: Any) -> Any:
    """The same in every text of plain data."""
    if isinstance(data, str):
        return hide_password(data)
    if isinstance(data, dict):
        return {key: hide_passwords(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [hide_passwords(value) for value in data]
    return data


def has_hidden(url: str) -> bool:
    """Whether something is hidden in a URL, so that it cannot be used."""
    return HIDDEN in url
