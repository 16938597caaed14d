import json

from meanflow_tune.tracking.runs_view import runs_page, view_state

VIEW = {
    "sort": "objective",
    "ascending": True,
    "metrics": ["teacher_gap@1", "sliced_wasserstein@1"],
    "params": ["param/optimizer/learning_rate"],
    "images": ["samples_nfe_1"],
}


def test_the_view_has_few_columns_in_the_order_of_interest() -> None:
    state = json.loads(view_state(VIEW))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`objective`", True)
    assert state["selectedColumns"] == [
        "metrics.`objective`",
        "tags.`verdict`",
        "tags.`state`",
        "tags.`baseline`",
        "metrics.`teacher_gap/nfe_1`",
        "metrics.`sliced_wasserstein/nfe_1`",
        "metrics.`cost/wall_seconds`",
        "attributes.`Models`",
    ]
    kinds = [chart["type"] for chart in state["compareRunCharts"]]
    assert kinds == [*["LINE"] * 5, "SCATTER", "PARALLEL", "IMAGE"]
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(kinds)


def test_a_space_without_shared_parameters_has_no_parallel_coordinates() -> None:
    state = json.loads(view_state(VIEW | {"params": [], "images": []}))
    assert {chart["type"] for chart in state["compareRunCharts"]} == {"LINE", "SCATTER"}


def test_the_link_opens_the_training_view() -> None:
    link = runs_page("7", "http://host:5000")
    assert link.startswith("http://host:5000/#/experiments/7/runs?workflowType=machine_learning&")
    assert link.endswith("viewStateShareKey=search")
