"""What a search with a storage at a URL is refused for, in one line that names the remedy."""

import os
import shutil
from pathlib import Path

import pytest

from meanflow_tune.driver.cli import search_request, tune_parser
from meanflow_tune.driver.handling.remote_study import fetch_trial, prepare
from meanflow_tune.driver.tune_command import main
from meanflow_tune.files import Unreachable, WaitForSpace
from meanflow_tune.plan.request import UserError
from meanflow_tune.remote import object_store
from meanflow_tune.remote.arguments import storage_path
from meanflow_tune.remote.location import UnusableRemote, local_folder, storage_of
from meanflow_tune.remote.object_store import ObjectStore
from meanflow_tune.remote.study_copy import StudyCopy
from tests.support.servers.s3 import SECRET, S3Server

DATABASE = "--study-storage=postgresql://me:s3cret@db/studies"
TRACKING = "--tracking-uri=postgresql://me:s3cret@db/mlflow"
URL = "s3://bucket/runs"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("OPTUNA_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEANFLOW_TUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(*arguments: str) -> UserError:
    request = search_request(tune_parser().parse_args(arguments))
    with pytest.raises(UserError) as caught:
        prepare(request)
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    return caught.value


def test_a_folder_needs_nothing(tmp_path: Path) -> None:
    assert prepare(search_request(tune_parser().parse_args([f"--storage={tmp_path}"]))) is None


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "add --study-storage postgresql://"),
        (("--study-storage=sqlite:///x.db",), "add --study-storage postgresql://"),
        ((DATABASE,), "add --tracking-uri"),
        ((DATABASE, "--tracking-uri=sqlite:///m.db"), "add --tracking-uri"),
        ((DATABASE, TRACKING, "--resume=fresh"), "another study name"),
        ((DATABASE, TRACKING, "--import-study=other"), "--import-study"),
        ((DATABASE, TRACKING, "--keep-checkpoints=last"), "--keep-checkpoints"),
    ],
)
def test_what_an_object_store_cannot_do_is_named(arguments: tuple[str, ...], words: str) -> None:
    error = refused(f"--storage={URL}", *arguments)
    assert error.status == 2
    assert str(error).startswith(f"--storage {URL}: ")
    assert words in str(error)


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://"])
def test_a_url_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="--storage"):
        search_request(tune_parser().parse_args([f"--storage={url}"]))


@pytest.mark.parametrize("mode", ["--stop-trial=1", "--enqueue=x.json", "--delete-study"])
def test_requests_from_another_terminal_are_refused(
    mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--storage={URL}", mode]) == 2
    assert "not for a storage that is a URL (s3://bucket/runs)" in capsys.readouterr().err


def test_a_store_without_the_bucket_or_an_answer_is_refused_with_5(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused("--storage=s3://no-such-bucket/runs", DATABASE, TRACKING)
    assert error.status == 5
    assert "check the bucket, the credentials" in str(error)
    assert SECRET not in str(error)
    url = s3.new_url()
    assert object_store.CHECK_SECONDS < 10.0
    monkeypatch.setattr(object_store, "CHECK_SECONDS", 1.0)
    with s3.hung():
        error = refused(f"--storage={url}", DATABASE, TRACKING)
    assert error.status == 5
    assert "nothing within 1 s" in str(error)


def test_a_folder_that_somebody_else_has_made_in_tmp_holds_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who owns it could name another storage in it, or replace what is read from there."""
    monkeypatch.delenv("MEANFLOW_TUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    copies = tmp_path / f"meanflow_tune-cache-{os.getuid()}"
    assert copies in storage_path(URL).parents
    assert copies.stat().st_mode & 0o077 == 0
    shutil.move(copies, tmp_path / "theirs")
    copies.symlink_to(tmp_path / "theirs")
    with pytest.raises(
        UnusableRemote, match=r"local copy \(a symbolic link\); name another one by"
    ):
        storage_path(URL)


def test_local_copies_know_their_storage_and_readers_have_their_own(cache: Path) -> None:
    work, read = local_folder(URL), local_folder(f"{URL}/", "read")
    assert work != read
    assert local_folder(f"{URL}/") == work
    assert cache in work.parents
    for folder in (work, read, work / "study" / "trials"):
        found = storage_of(folder)
        assert found is not None
        assert found[0] == URL
    assert storage_of(cache) is None
    assert work.stat().st_mode & 0o077 == 0


def test_the_driver_waits_for_a_store_that_goes_away_between_two_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else tracking would miss that report, with a traceback."""
    store = ObjectStore(f"file://{tmp_path / 'store'}")
    folder = tmp_path / "root" / "study" / "trials" / "00001"
    store.write("study/trials/00001/curve/1.json", b"{}")
    copy = StudyCopy(store, tmp_path / "root", "study")
    answers: list[OSError | None] = [OSError("away"), OSError("away"), None]
    real = copy.fetch_trial

    def fetch(wanted: Path) -> None:
        if (error := answers.pop(0)) is not None:
            raise error
        real(wanted)

    monkeypatch.setattr(copy, "fetch_trial", fetch)
    said: list[str] = []
    policy = WaitForSpace(said.append, lambda: False, pause=0.0)
    fetch_trial(copy, policy, folder)
    assert (folder / "curve" / "1.json").read_text() == "{}"
    assert said == [
        f"{store.url} does not answer (away): the search continues once it does; nothing is lost",
        f"{store.url} answers again: the search continues",
    ]
    answers.append(OSError("away"))
    with pytest.raises(Unreachable):  # the user stopped the search
        fetch_trial(copy, WaitForSpace(said.append, lambda: True), folder)
