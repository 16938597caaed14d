"""A cluster whose head is not there yet, dies in the middle of a search, and comes back at once."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.support.processes.commands import (
    TRIALS,
    assert_agreement,
    command,
    environment,
    states,
)
from tests.support.processes.ray_head import RayHead

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def ended(storage: Path) -> dict[int, str]:
    """States of the trials that have ended; none before there is a study."""
    try:
        return {n: s for n, s in states(storage).items() if s in ("COMPLETE", "PRUNED")}
    except (KeyError, ValueError, OSError):
        return {}


def test_the_search_waits_for_its_head_and_goes_on_with_a_new_one(tmp_path: Path) -> None:
    storage, said = tmp_path / "runs", tmp_path / "said"
    with RayHead() as head, said.open("w") as output:
        words = [*command(storage), f"--cluster={head.address}", "--wait-for-cluster=10m"]
        driver = subprocess.Popen(
            words, env=environment(), stdout=output, stderr=output, cwd=tmp_path
        )
        try:
            while "waiting up to 600 s for the Ray cluster" not in said.read_text():
                assert driver.poll() is None, said.read_text()
                time.sleep(0.2)
            head.start()
            while not (done := ended(storage)):
                assert driver.poll() is None, said.read_text()
                time.sleep(0.2)
            head.kill()
            head.start()  # before the driver could notice that it was away
            assert driver.wait() == 0, said.read_text()
        finally:
            driver.kill()
            driver.wait()
    assert "waiting up to 600 s for a cluster" in said.read_text()
    assert "takes no token: anyone who reaches its ports can run code" in said.read_text()
    assert_agreement(storage, TRIALS)
    after = states(storage)
    assert {number: after[number] for number in done} == done
