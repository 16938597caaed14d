"""The page as a whole: valid, self-contained, escaped, and made of whatever a study holds."""

from dataclasses import replace
from pathlib import Path

import pytest

from meanflow_tune.files import write_atomic
from meanflow_tune.report.page import document
from meanflow_tune.report.page.document import make_sections, page_html
from meanflow_tune.report.page.page_files import write_figures, write_page
from meanflow_tune.report.page.study_view import StudyView
from tests.support.page.html_check import faults_of
from tests.support.page.page_study import page_trial, page_view, small_study


def page_of(*views: StudyView) -> str:
    return page_html(views, make_sections(views))


def test_a_page_is_valid_and_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = page_of(page_view(tmp_path, small_study(tmp_path)))
    assert faults_of(page) == []
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "cannot be made" not in page


@pytest.mark.parametrize("number", range(8))
def test_the_first_trials_of_a_search_give_a_page(number: int, tmp_path: Path) -> None:
    records = small_study(tmp_path)[:number]
    page = page_of(page_view(tmp_path, records, running=True))
    assert faults_of(page) == []
    assert "This section cannot be made" not in page or number == 0
    assert 'data-reload="' in page


def test_a_study_without_a_completed_trial_says_so(tmp_path: Path) -> None:
    records = [page_trial(tmp_path, 0, 0.5, rungs=1, status="diverged", reason="nan")]
    page = page_of(page_view(tmp_path, records))
    assert faults_of(page) == []
    assert "No trial completed, of 1 trial" in page


def test_text_from_outside_is_no_markup(tmp_path: Path) -> None:
    view = page_view(tmp_path, small_study(tmp_path))
    evil = "<script>alert(1)</script>\x00\x1b[31m"
    plan = replace(view.plan, space=replace(view.plan.space, goal=evil))
    page = page_of(replace(view, plan=plan, notes=(evil,), folder=tmp_path / "<b>&"))
    assert faults_of(page) == []
    assert page.count("&lt;script&gt;alert(1)") == 2
    assert "\x00" not in page
    assert "\x1b" not in page


def test_a_section_that_fails_leaves_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(view: StudyView) -> None:
        raise KeyError("gone <b>")

    monkeypatch.setattr(document, "SECTIONS", (("odd", "Odd", fail),))
    page = page_of(page_view(tmp_path, small_study(tmp_path)))
    assert "This section cannot be made (KeyError: &#x27;gone &lt;b&gt;&#x27;)." in page
    assert faults_of(page) == []


def test_a_stop_is_no_failed_section(tmp_path: Path) -> None:
    def check() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_sections([page_view(tmp_path, small_study(tmp_path))], check=check)


def test_a_page_of_500_trials_is_of_bounded_size(tmp_path: Path) -> None:
    records = small_study(tmp_path)
    records += [page_trial(tmp_path, n, 0.3 + 0.7 * (n % 97) / 97) for n in range(7, 60)]
    records += [
        replace(
            records[7 + n % 53], number=n, status="pruned", reports=records[7 + n % 53].reports[:2]
        )
        for n in range(60, 500)
    ]
    path = tmp_path / "report.html"
    sections = write_page(path, [page_view(tmp_path, records)])
    size = path.stat().st_size
    print(f"{size:,} bytes, {len(sections)} sections")
    assert size < 2_000_000
    assert faults_of(path.read_text()) == []


def test_charts_are_written_for_papers(tmp_path: Path) -> None:
    made = make_sections([page_view(tmp_path, small_study(tmp_path))])
    sections = [section for section in made if section.anchor in ("quality", "front", "samples")]
    written = write_figures(tmp_path / "figures", sections)
    names = {path.name for path in written}
    assert {"quality-teacher_gap.png", "quality-teacher_gap.svg"} <= names
    assert all(path.stat().st_size > 1000 for path in written)
    again = write_figures(tmp_path / "again", sections)
    for first, second in zip(written, again, strict=True):
        if first.suffix == ".svg":
            assert first.read_bytes() == second.read_bytes()


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_atomic(path, "old")
    with pytest.raises(KeyboardInterrupt):
        write_page(path, [page_view(tmp_path, [])], check=_interrupt)
    assert path.read_text() == "old"


def _interrupt() -> None:
    raise KeyboardInterrupt
