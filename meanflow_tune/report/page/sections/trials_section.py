"""Every trial in one table that sorts."""

from meanflow_tune.report.page.markup import Html, paragraph, table, tag
from meanflow_tune.report.page.section import Section
from meanflow_tune.report.page.sections.trial_values import last_value, objective_name
from meanflow_tune.report.page.study_view import StudyView
from meanflow_tune.report.text import figure
from meanflow_tune.search.objectives import COST, measures

ANCHOR, TITLE = "trials", "All trials"


def trials_section(view: StudyView) -> Section:
    """Number, kind, state, objective, cost and reason of each trial."""
    if not view.records:
        return Section(ANCHOR, TITLE, paragraph("The study holds no trial yet."))
    words = {one.record.number: one.words for one in view.chosen()}
    metrics = view.objectives.metrics if len(view.objectives.metrics) > 1 else ()
    rows = []
    for record in view.records:
        report = record.reports[-1] if record.reports else None
        value = last_value(view, record)
        cost = measures(report).get(COST) if report is not None else None
        what = record.baseline or "proposed"
        role = words.get(record.number)
        rows.append(
            [
                record.number,
                _what(what, role),
                record.status.replace("_", " "),
                f"{report.images:,}" if report is not None else "",
                "" if value is None else figure(value),
                *(
                    figure(report.metrics[m]) if report and m in report.metrics else ""
                    for m in metrics
                ),
                "" if cost is None else f"{cost:.1f}",
                tag("span", record.reason, class_="reason"),
            ]
        )
    head = (
        "trial",
        "what",
        "state",
        "images",
        objective_name(view),
        *metrics,
        "cost (s)",
        "reason",
    )
    caption = "Values are those of a trial's last rung: compare only trials with the same images"
    return Section(ANCHOR, TITLE, table(caption, head, rows, 3, sortable=True, class_="trials"))


def _what(what: str, role: str | None) -> str | Html:
    if role is None:
        return what
    return tag("span", what, tag("small", role))
