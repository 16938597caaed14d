"""A search with passwords in its URLs: they are nowhere in what it prints, logs, stores or tells others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from meanflow_tune.cluster.faults import one_cause
from meanflow_tune.cluster.worker import outcome_of
from meanflow_tune.driver.handling.on_end import End, environment
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.tracking.outbox import Outbox
from tests.support.paths import ROOT
from tests.support.processes import commands
from tests.support.servers.listeners import answering

CANARY = "canary7f3a"
SCRIPT = ROOT / "tests" / "support" / "processes" / "made_up_search.py"
# What a server of MLflow says of an experiment that is not there, to every request.
ANSWER = b'{"error_code": "INTERNAL_ERROR", "message": "see http://me:canary7f3a@host/?token=canary7f3a"}'


def leaks(folder: Path) -> list[str]:
    """Files below a folder that hold the canary."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(str(path) for path in files if CANARY.encode() in path.read_bytes())


@pytest.mark.slow
def test_a_search_keeps_the_passwords_that_it_is_given(tmp_path: Path) -> None:
    """In options: a tracking server, which fails with one in its answer, and the command at the end."""
    storage = tmp_path / "runs"
    hook = f"env > {tmp_path / 'hook.txt'} # https://hooks.example/x?token={CANARY}"
    with answering(500, ANSWER) as port:
        uri = f"http://me:{CANARY}@127.0.0.1:{port}/?api_key={CANARY}"
        words = [sys.executable, str(SCRIPT), str(storage), "0.01", "--tracking-uri", uri]
        done = subprocess.run(
            [*words, "--on-end", hook],
            env=commands.environment(PYTHONPATH=str(ROOT), MADE_UP_MLFLOW="1"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=400,
            cwd=tmp_path,
        )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert CANARY not in told
    assert "http://***@127.0.0.1" in told
    assert "api_key=***" in told
    assert "set MLFLOW_TRACKING_URI instead of --tracking-uri" in told
    assert "are waiting for MLflow" in told
    for name in ("manifest.json", "status.json", "summary.txt", "report.html", "search.log"):
        assert (storage / "s" / name).is_file(), name
    assert leaks(storage) == []
    assert (tmp_path / "hook.txt").is_file()
    assert leaks(tmp_path) == []


def test_the_environment_of_the_command_at_the_end(tmp_path: Path) -> None:
    request = SearchRequest(study="s", storage=tmp_path)
    found = environment(request, End(5, f"http://u:{CANARY}@h:1: down\nx?token={CANARY}"))
    assert found["MEANFLOW_TUNE_ERROR"] == "http://***@h:1: down x?token=***"


def test_causes_of_faults_and_reasons_of_trials() -> None:
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError(f"cannot reach postgresql://u:{CANARY}@h/d\nx")
    assert one_cause(str(caught.value)) == "cannot reach postgresql://***@h/d x"
    outcome = outcome_of(caught.value)
    assert outcome is not None
    assert outcome.reason.startswith("RuntimeError: cannot reach postgresql://***@h/d x (File")


def test_events_of_the_outbox(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    outbox.put(
        "search_ended", text=f"tune.py --tracking-uri 'http://u:{CANARY}@h'", facts={"a": [1]}
    )
    (line,) = (tmp_path / "outbox" / "events.jsonl").read_text().splitlines()
    payload = json.loads(line)["payload"]
    assert payload == {"text": "tune.py --tracking-uri 'http://***@h'", "facts": {"a": [1]}}


def test_the_name_of_the_job_in_ray_and_the_list_of_processes() -> None:
    """Ray's name of a driver's job is its command line, which its dashboard shows."""
    script = (
        "from meanflow_tune.cluster.connection.command_line import hide_arguments\n"
        "hide_arguments()\n"
        "from ray._private.utils import get_entrypoint_name\n"
        "import subprocess, os\n"
        "print(get_entrypoint_name())\n"
        "print(open('/proc/self/cmdline').read())\n"
    )
    words = [sys.executable, "-c", script, "--study-storage", f"postgresql://u:{CANARY}@h/d", "-v"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert CANARY not in done.stdout
    assert done.stdout.count("--study-storage postgresql://***@h/d -v") == 2


def test_errors_and_logs_of_libraries() -> None:
    """Whatever a process prints: a traceback, a warning of a library, its logs."""
    script = (
        "from meanflow_tune.driver.output import steady_output\n"
        "steady_output()\n"
        "import logging, sys, warnings\n"
        f"url = 'mysql://u:{CANARY}@h/d?ssl_key_password={CANARY}'\n"
        "logging.getLogger('x').warning('no answer from %s', url)\n"
        "warnings.warn(url)\n"
        "print('see', url, flush=True)\n"
        "raise ValueError(url)\n"
    )
    words = [sys.executable, "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "ValueError: mysql://***@h/d?ssl_key_password=***" in done.stderr
    assert done.stdout == "see mysql://***@h/d?ssl_key_password=***\n"
    assert CANARY not in done.stderr.replace("File", "")
