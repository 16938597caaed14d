"""How many slots of what size fit into a cluster."""

import pytest

from meanflow_tune.cluster.layout import Layout, plan_layout

HERE = {"CPU": 2.0}
NODE = {"CPU": 96.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("total", "workers", "cpus", "gpus", "most", "expected"),
    [
        (HERE, 1, 1.0, None, None, Layout(2, 1, 1.0, 0.0)),
        (HERE, 2, 1.0, None, None, Layout(1, 2, 1.0, 0.0)),
        (HERE, 1, 0.5, None, None, Layout(4, 1, 0.5, 0.0)),
        (HERE, 4, 1.0, None, None, Layout(1, 4, 1.0, 0.0)),  # check_resources refuses it, in words
        (NODE, 1, 1.0, None, None, Layout(8, 1, 1.0, 1.0)),
        (NODE, 4, 1.0, None, None, Layout(2, 4, 1.0, 1.0)),
        (NODE, 16, 1.0, None, None, Layout(6, 16, 1.0, 0.0)),  # too few GPUs for one trial
        (NODE, 1, 1.0, 0.5, None, Layout(16, 1, 1.0, 0.5)),
        (NODE, 1, 1.0, 0.0, None, Layout(96, 1, 1.0, 0.0)),
        (NODE, 1, 1.0, None, 3, Layout(3, 1, 1.0, 1.0)),
    ],
)
def test_layout(
    total: dict[str, float],
    workers: int,
    cpus: float,
    gpus: float | None,
    most: int | None,
    expected: Layout,
) -> None:
    assert plan_layout(total, workers, cpus, gpus, most) == expected


def test_a_layout_in_words() -> None:
    assert str(Layout(2, 1, 1.0, 0.0)) == "2 trials at once, 1 rank each with 1 CPU"
    assert str(Layout(1, 4, 2.0, 1.0)) == "1 trial at once, 4 ranks each with 2 CPU and 1 GPU"
    assert Layout(1, 1, 1.0, 0.0).resources == {"CPU": 1.0}
