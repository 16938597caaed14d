"""How many slots of what size fit into a cluster."""

import pytest

from meanflow_tune.cluster.layout import (
    GIB,
    RANK_BYTES,
    REST_BYTES,
    SLOT_BYTES,
    Layout,
    MemoryLimit,
    plan_layout,
)

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


TRIAL = SLOT_BYTES + RANK_BYTES


@pytest.mark.parametrize(
    ("memory", "most", "slots", "limited"),
    [
        (None, None, 96, False),
        (REST_BYTES + 96 * TRIAL, None, 96, False),
        (REST_BYTES + 3.9 * TRIAL, None, 3, True),
        (REST_BYTES + 0.9 * TRIAL, None, 1, True),  # one is tried, with a warning
        (0.5 * GIB, None, 1, True),
        (REST_BYTES + 3.9 * TRIAL, 2, 2, False),
        (REST_BYTES + 3.9 * TRIAL, 5, 5, True),  # as asked for, with a warning
    ],
)
def test_memory_bounds_what_runs_at_once(
    memory: float | None, most: int | None, slots: int, limited: bool
) -> None:
    layout = plan_layout(NODE, 1, 1.0, 0.0, most, memory)
    assert (layout.slots, layout.memory is not None) == (slots, limited)
    fits = memory is None or REST_BYTES + slots * TRIAL <= memory
    assert (layout.warning == "") == fits


def test_a_rank_more_takes_more_memory() -> None:
    memory = REST_BYTES + 4.2 * TRIAL
    assert plan_layout(NODE, 1, 1.0, 0.0, None, memory).slots == 4
    assert plan_layout(NODE, 4, 1.0, 0.0, None, memory).slots == 1


def test_a_layout_bound_by_memory_in_words() -> None:
    layout = Layout(2, 1, 1.0, 0.0, MemoryLimit(8 * GIB, 3.1 * GIB))
    text = "2 trials at once, 1 rank each with 1 CPU (memory: 8 GiB allowed, 3.1 GiB per trial)"
    assert str(layout) == text
    assert layout.warning == ""
    assert Layout(1, 2, 1.0, 0.0, MemoryLimit(2 * GIB, 3 * GIB)).warning == (
        "memory may run out: 1 trial at once and Ray take about 4.2 GiB, and this process may use 2 GiB; "
        "ask the batch system or container for more, or use fewer --workers-per-trial"
    )
    assert "lower --max-concurrent" in Layout(9, 1, 1.0, 0.0, MemoryLimit(8 * GIB, GIB)).warning
