"""docs/first-search.md names the parts of the last screen, in their order."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from meanflow_tune.driver import driver
from meanflow_tune.plan.request import SearchRequest
from tests.support.docs.pages import CURRENT, blocks
from tests.support.drivers.made_up import SPACE, MadeUp, replace_ray
from tests.support.paths import PACKAGE

PAGE = "docs/first-search.md"


def parts() -> list[str]:
    """What the table quotes of the screen."""
    table = CURRENT[PAGE].split("\n## The last screen\n")[1]
    return re.findall(r"^\| `([^`]+)` \|", table, flags=re.MULTILINE)


def in_order(screen: str, words: list[str]) -> bool:
    places = [screen.find(word) for word in words]
    return -1 not in places and places == sorted(places)


def test_the_screen_of_a_search_has_these_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up trials leave no samples, so two parts are missing; they are in the code."""
    replace_ray(monkeypatch, MadeUp())
    request = SearchRequest(space=SPACE, study="s", storage=tmp_path, trials=20)
    with redirect_stdout(io.StringIO()):
        assert driver.run(request, command="again", quiet=True) == 0
    screen = (tmp_path / "s" / "summary.txt").read_text()
    there = [part for part in parts() if part in screen]
    assert in_order(screen, there)
    assert {"in the search", "leader:", "Which settings won?", "Next steps:"} <= set(there)
    code = "\n".join(path.read_text() for path in (PACKAGE / "report").glob("*.py"))
    assert all(part in code for part in parts() if part not in there)


def test_a_printed_screen_on_the_page_has_all_parts() -> None:
    printed = [b.text for b in blocks() if b.page == PAGE and "Next steps:" in b.text]
    assert all(in_order(text, parts()) for text in printed)
