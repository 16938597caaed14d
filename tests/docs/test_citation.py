"""CITATION.cff has what CFF 1.2.0 requires, and agrees with the package."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import meanflow_tune
from tests.support.paths import ROOT

FILE = ROOT / "CITATION.cff"
# https://github.com/citation-file-format/citation-file-format/blob/1.2.0/schema-guide.md
REQUIRED = {"authors", "cff-version", "message", "title"}
KNOWN = REQUIRED | {
    "abstract",
    "commit",
    "contact",
    "date-released",
    "doi",
    "identifiers",
    "keywords",
    "license",
    "license-url",
    "preferred-citation",
    "references",
    "repository",
    "repository-artifact",
    "repository-code",
    "type",
    "url",
    "version",
}
REFERENCE = {"authors", "title", "type"}
REFERENCE_KNOWN = REFERENCE | {"year", "url", "identifiers", "journal", "doi"}
REFERENCE_TYPES = {"article", "blog", "conference-paper", "generic", "software", "website"}
PERSON = {"family-names", "given-names", "affiliation", "email", "orcid"}
ENTITY = {"name", "website"}


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    # Strings as they are written: a version that a parser reads as a number is none.
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def check_authors(authors: list[dict[str, str]]) -> None:
    assert authors
    for author in authors:
        assert set(author) <= (ENTITY if "name" in author else PERSON), author
        assert all(isinstance(value, str) and value for value in author.values()), author


def test_it_has_the_keys_of_the_format(citation: dict[str, Any]) -> None:
    assert set(citation) >= REQUIRED
    assert set(citation) <= KNOWN
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert isinstance(citation["version"], str)
    check_authors(citation["authors"])
    assert citation["authors"] == [{"name": "The meanflow_tune developers"}]


def test_references_are_whole(citation: dict[str, Any]) -> None:
    for reference in citation["references"]:
        assert REFERENCE <= set(reference) <= REFERENCE_KNOWN, reference["title"]
        assert reference["type"] in REFERENCE_TYPES
        assert isinstance(reference["year"], int)
        check_authors(reference["authors"])
        for identifier in reference.get("identifiers", ()):
            assert identifier["type"] in ("doi", "other", "swh", "url")
            assert identifier["value"]
    urls = [reference["url"] for reference in citation["references"]]
    assert urls == ["https://yuanzhi-zhu.github.io", "https://arxiv.org/abs/2505.13447"]
    readme = Path(ROOT / "README.md").read_text()
    assert all(url in readme for url in urls)


def test_it_agrees_with_the_package(citation: dict[str, Any]) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for key in ("version", "license"):
        found = re.search(rf'^{key} = "(.+)"$', project, flags=re.MULTILINE)
        assert found
        assert citation[key] == found[1]
    assert citation["version"] == meanflow_tune.__version__
