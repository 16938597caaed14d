"""Requests of other terminals: whole or not there, applied once, and never lost to a damaged neighbour."""

import json
from pathlib import Path

import pytest

from meanflow_tune.formats import FORMAT
from meanflow_tune.search.study.inbox import Inbox, UserRequest


def test_requests_come_back_in_their_order(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    assert inbox.waiting() == []
    first, second = inbox.stop(7), inbox.enqueue({"x": 0.5, "kind": "bent"})
    assert Inbox(tmp_path).waiting() == [first, second]
    inbox.remove(first)
    inbox.remove(first)
    assert inbox.waiting() == [second]
    assert str(second) == "enqueue a trial with x 0.5, kind bent"


def test_a_refused_request_keeps_its_reason(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    inbox.refuse(inbox.stop(3), "trial 3 has already ended")
    assert inbox.waiting() == []
    (refused,) = inbox.refused()
    assert (str(refused), refused.reason) == ("stop trial 3", "trial 3 has already ended")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"kind": "stop"}',
        '{"kind": "stop", "trial": true}',
        '{"kind": "stop", "trial": "7"}',
        '{"kind": "delete", "trial": 7}',
        '{"kind": "enqueue", "params": 3}',
        "\x00\x00",
        "[" * 5000,
    ],
)
def test_what_is_no_request_is_told_and_kept(tmp_path: Path, text: str) -> None:
    inbox = Inbox(tmp_path)
    good = inbox.stop(1)
    bad = inbox.folder / "0-first.json"
    bad.write_text(text)
    damaged, request = inbox.waiting()
    assert (damaged.key, damaged.fault) == ("0-first", "it is no request")
    assert request == good
    inbox.refuse(damaged, damaged.fault)
    assert inbox.waiting() == [good]
    assert (inbox.folder / "refused" / bad.name).read_text() == text
    assert inbox.refused()[0].fault


def test_a_request_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    inbox.stop(1)
    (path,) = inbox.folder.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": FORMAT + 1}))
    (request,) = inbox.waiting()
    assert f"newer version (format {FORMAT + 1}; this one reads up to {FORMAT})" in request.fault


def test_an_unfinished_write_is_no_request(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    inbox.folder.mkdir()
    (inbox.folder / ".1-a.json.0123456789abcdef.tmp").write_text('{"kind": "sto')
    assert inbox.waiting() == []
    assert isinstance(inbox.stop(1), UserRequest)
