"""Each thing that a host can lack, from what it says of itself."""

from dataclasses import replace
from pathlib import Path

import pytest

from meanflow_tune.cluster.doctor import host_facts
from meanflow_tune.cluster.doctor.diagnosis import Finding, faults, gathered
from meanflow_tune.cluster.doctor.examination import examine_here
from meanflow_tune.cluster.doctor.host_checks import GIB, Answer, check_alike, check_host
from meanflow_tune.cluster.doctor.host_facts import HostFacts, describe_host

FOLDER = Path("/shared/runs")
GOOD = HostFacts(
    nonce="secret",
    error="",
    versions={"python": "3.11", "ray": "2.60.0"},
    clock=100.5,
    free_storage=50 * GIB,
    free_temporary=50 * GIB,
    shared_memory=8 * GIB,
    open_files=65536,
    data="5ebe8a372948" * 5,
)


def findings(facts: HostFacts, gpus: float = 0.0, ours: HostFacts = GOOD) -> list[Finding]:
    answer = Answer("host1 (10.0.0.11)", facts, asked=100.0, answered=101.0, gpus=gpus)
    return list(check_host(answer, "secret", ours, FOLDER))


def test_a_good_host_has_no_faults_and_no_warnings() -> None:
    assert {finding.level for finding in findings(GOOD)} == {"ok"}


@pytest.mark.parametrize(
    ("changes", "gpus", "level", "line"),
    [
        (
            {"nonce": "other"},
            0,
            "fault",
            "storage on host1 (10.0.0.11): cannot use /shared/runs (it has other content there). --storage",
        ),
        ({"error": "Permission denied"}, 0, "fault", "cannot use /shared/runs (Permission denied)"),
        (
            {"free_storage": GIB // 8},
            0,
            "fault",
            "free space on host1 (10.0.0.11): 0.1 GiB free in /sh",
        ),
        ({"free_storage": 2 * GIB}, 0, "warning", "2.0 GiB free in /shared/runs. Make room"),
        (
            {"free_temporary": 2 * GIB},
            0,
            "warning",
            "2.0 GiB free in the folder for temporary files",
        ),
        ({"shared_memory": 64 * 2**20}, 0, "warning", "64 MiB of shared memory (/dev/shm). Ray"),
        (
            {"versions": {"python": "3.12"}},
            0,
            "fault",
            "has python 3.12 instead of 3.11, ray missing instead of 2.60.0. Install the same versions",
        ),
        ({"clock": 131.0}, 0, "warning", "at least 30 s ahead of the driver's"),
        ({"clock": 70.0}, 0, "warning", "at least 30 s behind the driver's"),
        ({}, 1, "fault", "Ray counts 1, and torch sees 0 (torch is a build for processors)"),
        (
            {"cuda": "13.0", "gpu_driver": "470.1"},
            2,
            "fault",
            "Ray counts 2, and torch sees 0 (torch wants CUDA 13.0, driver 470.1)",
        ),
        ({"gpus": ("H200",)}, 0, "warning", "torch sees 1, and Ray counts none"),
        ({"data": "0" * 64}, 0, "fault", "is another one (000000000000 instead of 5ebe8a372948)"),
        ({"data": "", "data_error": "no file"}, 0, "fault", "cannot be loaded (no file)"),
        ({"open_files": 1024}, 0, "warning", "at most 1,024 per process. Ray needs more"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(
    changes: dict[str, object], gpus: float, level: str, line: str
) -> None:
    wrong = [f for f in findings(replace(GOOD, **changes), gpus) if f.level != "ok"]
    assert [finding.level for finding in wrong] == [level]
    assert line in wrong[0].line()
    assert wrong[0].remedy.endswith(".")
    assert bool(faults(wrong)) == (level == "fault")


def test_the_time_that_an_answer_takes_is_no_skew() -> None:
    slow = Answer("host", replace(GOOD, clock=190.0), asked=100.0, answered=220.0)
    assert all(f.level == "ok" for f in check_host(slow, "secret", GOOD, FOLDER))


def test_gpus_are_named_with_their_driver() -> None:
    facts = replace(GOOD, gpus=("H200", "H200"), gpu_driver="580.65")
    (gpu,) = (f for f in findings(facts, gpus=2) if f.check == "GPU")
    assert (gpu.level, gpu.found) == ("ok", "2 x H200, driver 580.65")


def test_different_gpus_are_a_warning() -> None:
    kinds = [("H200",), ("A100",), ()]
    answers = [Answer(f"h{i}", replace(GOOD, gpus=k), 0, 1) for i, k in enumerate(kinds)]
    (found,) = check_alike(answers)
    assert "h0: 1 x H200; h1: 1 x A100" in found.found
    assert list(check_alike(answers[:1] * 2)) == []


@pytest.mark.parametrize("version", ["2.61.0", "3.60.0", "missing"])
def test_a_version_that_has_not_been_tested_is_named(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(package: str) -> str:
        if version == "missing":
            raise host_facts.metadata.PackageNotFoundError(package)
        return version if package == "ray" else "5.0.3"

    monkeypatch.setattr(host_facts.metadata, "version", found)
    doubtful = [
        f for f in examine_here(tmp_path, None) if f.check == "versions" and f.level != "ok"
    ]
    assert {f.level for f in doubtful} == {"warning"}
    line = doubtful[0].line()
    assert f"versions: ray {version} has not been tested (ray 2.60 has)" in line
    assert line.endswith("pip install 'ray==2.60.*'")
    assert len(doubtful) == (2 if version == "missing" else 1)  # Optuna, too


def test_hosts_of_which_the_same_is_said_share_a_line() -> None:
    many = [Finding("clock", f"h{i}", "ok", "good") for i in range(5)]
    odd = Finding("clock", "h9", "warning", "late", "Run chrony.")
    assert [f.where for f in gathered([*many, odd])] == ["h0 and 4 more hosts", "h9"]
    assert gathered(many[:2])[0].where == "h0, h1"


def test_this_machine_describes_itself(tmp_path: Path) -> None:
    (tmp_path / "nonce").write_text("secret")
    facts = describe_host(str(tmp_path), "nonce", None)
    assert (facts.nonce, facts.error) == ("secret", "")
    assert facts.versions["ray"].startswith("2.")
    assert facts.free_storage is not None
    assert facts.free_storage > 0
    assert len(list(tmp_path.iterdir())) == 2  # it has written there, too
    assert describe_host(str(tmp_path / "none"), "nonce", None).error != ""
