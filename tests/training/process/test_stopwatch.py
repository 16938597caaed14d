"""The stages before a training are logged where a process shows them."""

import logging
import time

import pytest

from meanflow_tune.training.process.stopwatch import NAME, Stopwatch, process_age, show_start


def test_stages_are_shown_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger(NAME)
    for name, value in (("handlers", []), ("level", logging.WARNING), ("propagate", True)):
        monkeypatch.setattr(log, name, value)
    log.manager._clear_cache()  # type: ignore[attr-defined]
    stopwatch = Stopwatch()
    stopwatch.mark("data")
    stopwatch.log("trial 3")
    assert capsys.readouterr().err == ""
    show_start()
    show_start()
    log.manager._clear_cache()  # type: ignore[attr-defined]
    stopwatch.mark("teacher")
    stopwatch.log("trial 3")
    assert capsys.readouterr().err == "trial 3: data 0.0 s, teacher 0.0 s\n"


def test_the_age_of_a_process_grows() -> None:
    before = process_age()
    assert before is not None
    assert 0.0 <= before < time.monotonic() + 1.0
