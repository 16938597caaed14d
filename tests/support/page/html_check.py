"""Checks of a page that need no browser: well-formed, without outside addresses, headings in order."""

import re
from html.parser import HTMLParser

PHRASING = {"b", "span", "small", "code", "i", "wbr", "a", "br"}
VOID = {"img", "input", "meta", "br", "link", "wbr"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.levels: list[int] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(str(found["id"]))
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if "p" in self.open and tag not in PHRASING:
            self.faults.append(f"<{tag}> in a paragraph")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]}")
        else:
            self.open.pop()


def faults_of(page: str) -> list[str]:
    """What is wrong with a page; empty where nothing is."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    found = [*reader.faults, *(f"<{tag}> is not closed" for tag in reader.open)]
    found += [
        f"the id {name} is used twice" for name in set(reader.ids) if reader.ids.count(name) > 1
    ]
    for before, after in zip([0, *reader.levels], reader.levels, strict=False):
        if after > before + 1:
            found.append(f"a heading h{after} follows h{before}")
    for tag, attrs in reader.tags:
        if tag == "img" and not attrs.get("alt"):
            found.append("an image has no text")
        for name in ("src", "href"):
            address = attrs.get(name) or ""
            if address and not address.startswith(("#", "data:")):
                found.append(f"{name} leads outside: {address}")
            if address.startswith("#") and address[1:] not in reader.ids:
                found.append(f"{address} leads nowhere")
        for name in ("aria-labelledby", "for"):
            for one in (attrs.get(name) or "").split():
                if one not in reader.ids:
                    found.append(f"{name} names {one}, which is not there")
    return found
