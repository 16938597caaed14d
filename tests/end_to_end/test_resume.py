"""What a resume survives, by the command line: a budget that ends, a moved folder, another space."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes.commands import (
    SPACE,
    assert_agreement,
    command,
    mlflow_runs,
    run,
    states,
    study,
    table,
)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
MANY = 400  # more than the budget affords on any machine
SMALL = ("--set=budget.images=1280", "--set=teacher.budget.images=640")


def go(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return run(arguments, timeout=1500)


def test_a_budget_a_moved_folder_and_another_space(tmp_path: Path) -> None:
    first = tmp_path / "first" / "runs"
    first.parent.mkdir()
    options: tuple[str, ...] = (
        "--max-concurrent=2",
        "--sampler=random",
        "--scheduler=none",
        *SMALL,
    )
    # A copy: its place is no term of the study, its text is.
    space = tmp_path / "tiny_space.py"
    shutil.copy(SPACE, space)
    some = go([*command(first, *options, "--confirm-seeds=0", trials=3), f"--space={space}"])
    assert some.returncode == 0, some.stdout + some.stderr
    spent = sum(json.loads((first / "tiny_space" / "clock.json").read_text()).values())
    options = (*options, f"--time-budget={spent + 20:.0f}s", "--confirm-seeds=1")
    ended = go([*command(first, *options, trials=MANY), f"--space={space}"])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "The time budget ended the search" in ended.stdout
    before = states(first)
    assert len(before) < MANY
    interrupted = [number for number, state in before.items() if state == "RUNNING"]
    # Its confirmation runs in the slots that were just told to stop.
    assert set(states(first, "tiny_space/confirm").values()) == {"COMPLETE"}

    again = go([*command(first, *options, trials=MANY), f"--space={space}"])
    assert again.returncode == 0
    assert "the time budget is used up; no trial is started" in again.stdout
    assert states(first) == before

    second = tmp_path / "second" / "runs"
    second.parent.mkdir()
    shutil.move(first, second)
    changed = space.read_text().replace("[-1, 0, 1]", "[0, 1]")
    space.write_text(changed)
    total = len(before) + 2
    options = (*options, "--time-budget=1d")
    going_on = [*command(second, *options, trials=total), f"--space={space}"]
    refused = go(going_on)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "the source of the search space changed" in refused.stderr
    assert "--accept-changes" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = go([*going_on, "--accept-changes"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "generation 2" in done.stdout
    assert_agreement(second, total)
    assert not first.exists(), "something was written to where the folder was"
    for number in interrupted:
        record = study(second).trials[number]
        assert record.user_attrs["attempt"] >= 1
    frame = table(second).drop_duplicates("number").set_index("number")
    own = frame[frame["study"] == "tiny_space"]
    assert dict(own["terms"]) == {n: int(n >= len(before)) for n in range(total)}
    places = {r.info.artifact_uri for r in mlflow_runs(second)}
    assert all(str(second) in place for place in places)
