"""README.md and the other pages of the documentation: their blocks and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.paths import ROOT

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
}
# History names files and commands as they were.
CURRENT = {name: text for name, text in PAGES.items() if name != "docs/LOG.md"}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SHELL = ("bash", "sh", "shell")  # every line is a command; elsewhere those after a prompt
PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    language: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command of a block: its words, without variables before it."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(*languages: str) -> list[Block]:
    """Those of all current pages, or those in these languages."""
    found = [Block(n, *match) for n, text in CURRENT.items() for match in FENCE.findall(text)]
    return [block for block in found if not languages or block.language in languages]


def prose(text: str) -> str:
    """A page without its blocks."""
    return FENCE.sub("", text)


def commands_of(block: Block) -> Iterator[Command]:
    """Each simple command of a block; `a && b`, `a; b` and `a | b` are two."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language not in SHELL:
            if not line.startswith(PROMPT):
                continue
            line = line.removeprefix(PROMPT)
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not word or not set(word) <= set("&|;"):
                words.append(word)
                continue
            while words and re.fullmatch(r"\w+=.*", words[0]):
                del words[0]
            if words:
                yield Command(block.page, tuple(words))
            words = []


def commands() -> list[Command]:
    """All of the blocks of the current pages, each page's once."""
    return list(dict.fromkeys(one for block in blocks() for one in commands_of(block)))
