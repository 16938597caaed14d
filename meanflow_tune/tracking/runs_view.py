"""How MLflow's page of a study opens: columns, order and charts, stored with the experiment.

MLflow keeps a shared view of the page of runs in a tag of the experiment, and a link with `viewStateShareKey`
opens it. Without that the table shows no metric at all, and the charts begin with the costs.
"""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from meanflow_tune.tracking.run_names import mlflow_name

KEY = "search"
COST = "cost/wall_seconds"
VIEW_TAG = f"mlflow.sharedViewState.{KEY}"
SHOWN_RUNS = 20


def runs_page(experiment: str, server: str = "", charts: bool = False) -> str:
    """The link to a study's runs in the training view, sorted by the objective."""
    mode = "&compareRunsMode=CHART" if charts else ""
    place = f"{server}/#/experiments/{quote(experiment)}/runs"
    return f"{place}?workflowType=machine_learning&viewStateShareKey={KEY}{mode}"


def view_state(view: Mapping[str, Any]) -> str:
    """The value of the tag. view: `sort` and `ascending`, `metrics` (columns in order), `params` (of the
    parallel coordinates), `images` (keys of pictures), `step` (at which they are shown first); names as the
    search has them."""
    columns = [
        f"metrics.`{view['sort']}`",
        "tags.`verdict`",
        "tags.`state`",
        "tags.`images`",
        "tags.`kind`",
    ]
    columns += [f"metrics.`{name}`" for name in (*map(mlflow_name, view["metrics"]), COST)]
    columns += ["attributes.`Models`"]
    return json.dumps(
        {
            "searchFilter": "",
            "orderByKey": f"metrics.`{view['sort']}`",
            "orderByAsc": view["ascending"],
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "modelVersionFilter": "All Runs",
            "datasetsFilter": [],
            "selectedColumns": columns,
            "columnOrder": columns,
            "hideEmptyCharts": True,
            "runsHiddenMode": "FIRST_20_RUNS",
            # Else the sections are sorted by name, and the costs come first.
            "isAccordionReordered": True,
            "compareRunSections": [
                {"uuid": "search", "name": "Search", "display": True, "isReordered": True}
            ],
            "compareRunCharts": _charts(view),
        }
    )


def _charts(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    sort = view["sort"]
    charts = [_line(sort)]
    if view["images"]:  # near the top, since what lies below is drawn only once it is scrolled to
        images = {
            "imageKeys": list(view["images"]),
            "step": view.get("step", 0),
            "showRunParams": False,
        }
        charts.append({"type": "IMAGE", **images})
    names = (*map(mlflow_name, view["metrics"]), "train/loss", "train/learning_rate")
    charts += [_line(name) for name in names]
    charts.append(
        {
            "type": "SCATTER",
            "xaxis": {"type": "METRIC", "key": COST},
            "yaxis": {"type": "METRIC", "key": sort},
        }
    )
    if view["params"]:
        charts.append(
            {
                "type": "PARALLEL",
                "selectedParams": [mlflow_name(name) for name in view["params"]],
                "selectedMetrics": [sort],
                "showAllRuns": False,
            }
        )
    shared = {"metricSectionId": "search", "deleted": False, "isGenerated": False}
    return [
        {"uuid": f"search-{index}", "runsCountToCompare": SHOWN_RUNS, **shared, **chart}
        for index, chart in enumerate(charts)
    ]


def _line(name: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "metricKey": name,
        "selectedMetricKeys": [name],
        "lineSmoothness": 0,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
    }
