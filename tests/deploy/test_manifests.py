"""The manifests of deploy/ against the schemas of the programs that read them, and its shell scripts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from meanflow_tune.driver.cli import search_request, tune_parser
from tests.support.needs import needs
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
SCRIPTS = [p for p in sorted(DEPLOY.iterdir()) if p.is_file() and p.read_text().startswith("#!")]
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
PLACEHOLDER = re.compile(r"<([^<>\n]+)>")


def filled(name: str) -> Any:
    """A manifest with each placeholder replaced by the example in it."""
    return yaml.safe_load(PLACEHOLDER.sub(r"\1", (DEPLOY / name).read_text()))


def test_ray_up_takes_its_manifest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    monkeypatch.setenv("HOME", str(tmp_path))
    prepared = prepare_config(filled("ray-cluster.yaml"))
    validate_config(prepared)
    assert prepared["provider"]["worker_ips"] == ["10.0.0.11", "10.0.0.12"]


def test_every_process_of_ray_up_has_the_token() -> None:
    config = filled("ray-cluster.yaml")
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in config[key]
        if "ray start" in command or "supervisor >" in command
    ]
    assert len(starts) == 2
    for command in starts:
        assert "RAY_AUTH_MODE=token" in command
        assert "RAY_AUTH_TOKEN_PATH=" in command


def test_kubernetes_takes_the_pods() -> None:
    job = filled("kuberay-rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.37", strict=True)
    assert cluster["authOptions"] == {"mode": "token"}


def test_versions_of_the_manifests_are_those_of_the_constraints() -> None:
    pinned = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    assert filled("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned["ray"]


def searches() -> dict[str, str]:
    """The options of each search that deploy/ starts, by file."""
    entry = filled("kuberay-rayjob.yaml")["spec"]["entrypoint"]
    unit = (DEPLOY / "systemd/meanflow-tune.service").read_text().replace("\\\n", " ")
    slurm = (DEPLOY / "slurm.sh").read_text()
    found = {
        "kuberay": entry,
        "systemd": next(line for line in unit.splitlines() if line.startswith("ExecStart=")),
        "slurm": next(line for line in slurm.splitlines() if "scripts/tune.py" in line),
    }
    values = {
        "${HEAD_IP}": "10.0.0.10",
        "${HEAD_PORT}": "6379",
        "$TUNE_OPTIONS": "--storage /shared/runs",
        '"$address:$port"': "10.0.0.10:6379",
        '"$@" &': "--storage /shared/runs",
    }
    for name, text in found.items():
        for variable, value in values.items():
            text = text.replace(variable, value)
        found[name] = re.split(r"tune\.py\"?", text)[1]
    return found


@pytest.mark.parametrize("name", ["kuberay", "systemd", "slurm"])
def test_its_search_is_understood_and_requires_a_token(name: str) -> None:
    request = search_request(tune_parser().parse_args(searches()[name].split()))
    assert request.cluster is not None
    assert request.require_token


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([program, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_units(path: Path, tmp_path: Path) -> None:
    needs("systemd-analyze", "to check units")
    for unit in UNITS:  # programs are looked for: name one that exists
        text = unit.read_text().replace("/opt/meanflow_tune/.venv/bin/", f"{tmp_path}/")
        (tmp_path / unit.name).write_text(text.replace("/opt/meanflow_tune", str(ROOT)))
    for program in ("ray", "python"):
        shutil.copy("/bin/true", tmp_path / program)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / path.name)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
