"""What the pages name is there: links, pictures, anchors, paths, tests, inline commands and options."""

import argparse
import contextlib
import io
import re
import shlex

import pytest

from tests.cluster.chaos import parser as chaos_parser
from tests.support.docs.pages import CURRENT, PAGES, blocks, prose
from tests.support.docs.programs import PARSERS, PROGRAMS
from tests.support.paths import PACKAGE, ROOT

OTHERS = set(PROGRAMS) - {"python", "meanflow-tune"}  # their options are not ours
PIP = "python -m pip "
SUBCOMMANDS = ("slots", "search", "derivatives", "replay")
TOP = {path.name for folder in (ROOT, PACKAGE) for path in folder.iterdir() if path.is_dir()}
PATH = re.compile(r"(?<![\w/.<-])((?:\.?\w[\w.-]*/)+(?:[\w-]+\.(?:py|md|txt|toml|png)\b)?)")
# Each has a word that a reader expects: fix, again, next to, continue, most expensive, user.
ODD_WORDS = re.compile(r"\b(mend(s|ed)?|anew|beside|(go|goes|going|went) on|dearest|a person)\b")
BARE_FILE = re.compile(r"`([\w-]+\.(?:py|md))`")


def anchors(text: str) -> set[str]:
    """Of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def code(text: str) -> list[str]:
    """Inline code, on one line each, and the commands of blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    inline = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return inline + [line for line in lines if re.search(r"python scripts/|meanflow-tune \w", line)]


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(script, arguments) of every command that is written out."""
    found = []
    for line in code(text):
        # The installed command has the scripts' options.
        line = re.sub(r"\bmeanflow-tune ([a-z]+)\b", r"python scripts/\1.py", line)
        written = re.search(r"python (scripts/\w+\.py)(.*)", line)
        if written and "..." not in line:
            script, rest = written.groups()
            found.append((script, shlex.split(re.split(r"\s{3,}", rest)[0], comments=True)))
    return found


def help_of(parser: argparse.ArgumentParser, *words: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parser.parse_args([*words, "--help"])
    return printed.getvalue()


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), f"{name}: {target}"
        assert not anchor or anchor in anchors(path.read_text()), f"{name}: {target}"


@pytest.mark.parametrize("name", CURRENT)
def test_paths_exist(name: str) -> None:
    """NAME and other words in capitals stand for anything. A page may tell its reader to make files."""
    made = set(re.findall(r"^```python\n# (\S+\.py)$", CURRENT[name], flags=re.MULTILINE))
    files = {
        path.name for top in (PACKAGE, ROOT / "tests", ROOT / "docs") for path in top.rglob("*")
    }
    for path in PATH.findall(CURRENT[name]):
        if path.partition("/")[0] in TOP - {"runs"} and path not in made:
            known = re.split(r"\b[A-Z]+\b", path)[0] if not path.endswith(".md") else path
            assert (ROOT / known).exists() or (PACKAGE / known).exists(), f"{name}: {path}"
    for file in BARE_FILE.findall(CURRENT[name]):
        assert file in files or (ROOT / "scripts" / file).exists(), f"{name}: {file}"


@pytest.mark.parametrize("name", CURRENT)
def test_tests_that_are_named_exist(name: str) -> None:
    for path, test in re.findall(r"(tests/[\w/]+\.py)::(\w+)", CURRENT[name]):
        assert f"def {test}(" in (ROOT / path).read_text(), f"{name}: {path}::{test}"


@pytest.mark.parametrize("name", PAGES)
def test_commands_are_understood(name: str) -> None:
    for script, arguments in commands(PAGES[name]):
        try:
            PARSERS[script].parse_args(arguments)
        except SystemExit as end:
            if end.code:  # not after --help
                pytest.fail(f"{name}: {script} {shlex.join(arguments)}")


@pytest.mark.parametrize("script", PARSERS)
def test_examples_of_the_help_are_understood(script: str) -> None:
    for line in (PARSERS[script].epilog or "").replace("\\\n", " ").splitlines():
        written = re.search(r"python (scripts/\w+\.py)(.*)", line)
        if written:
            arguments = shlex.split(re.split(r"\s{3,}", written[2])[0])
            PARSERS[written[1]].parse_args([word for word in arguments if word != "..."])


def test_options_are_known() -> None:
    """In inline code of any page but the one on pytest."""
    known = " ".join(
        [help_of(parser) for parser in PARSERS.values()]
        + [help_of(PARSERS["scripts/benchmark.py"], word) for word in SUBCOMMANDS]
        + [help_of(chaos_parser())]
    )
    options = set(re.findall(r"--[a-z][a-z-]*", known))
    for name, text in CURRENT.items():
        if name != "docs/testing.md":
            for span in code(text):
                if (span.split()[:1] and span.split()[0] in OTHERS) or span.startswith(PIP):
                    continue
                used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", span))
                assert used <= options, f"{name}: {span}"


def test_the_layout_is_that_of_the_repository() -> None:
    block = PAGES["docs/layout.md"].split("```")[1]
    folders: list[str] = []
    named = set()
    for line in block.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        entry = line.split()[0]
        folders[depth:] = [entry]
        path = ROOT / "".join(folders)
        assert path.exists(), line
        assert path not in named, f"twice: {line}"
        named.add(path)
    there = {path.parent for path in PACKAGE.rglob("*.py")} | set(PACKAGE.glob("*.py"))
    rules, face = PACKAGE / "core" / "jets" / "rules", PACKAGE / "__init__.py"
    assert there - named == {rules, face}


def test_the_tree_in_the_readme_names_folders() -> None:
    (tree,) = (b for b in blocks() if b.page == "README.md" and not b.language)
    assert all((ROOT / line.split()[0]).is_dir() for line in tree.text.splitlines())


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w-]+\.(?:md|ipynb))\)", PAGES["README.md"]))
    reached = linked | {f"docs/{name}" for page in linked for name in _linked(page)}
    assert {name for name in PAGES if name.startswith("docs/")} <= reached


def _linked(page: str) -> list[str]:
    return re.findall(r"\]\(([\w-]+\.md)[#)]", PAGES.get(page, ""))


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_in_usual_english(name: str) -> None:
    found = ODD_WORDS.search(" ".join(prose(PAGES[name]).split()))
    assert found is None, found
