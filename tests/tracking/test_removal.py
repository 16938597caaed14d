"""What `--delete-study` removes from MLflow is the study's own experiment, whatever it is called."""

from pathlib import Path

import pytest

from meanflow_tune.tracking.events import Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.mlflow_store import connect, default_uri
from meanflow_tune.tracking.outbox import Outbox, read_uid
from meanflow_tune.tracking.removal import find_tracked, remove_tracked
from meanflow_tune.tracking.replay import Replayer
from tests.support.stories import STUDY

pytestmark = pytest.mark.slow  # MLflow creates its database


def test_another_study_of_the_same_name_stays(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    for name in ("one", "two"):
        outbox = Outbox(tmp_path / name)
        Tracker(outbox, STUDY).search_started({"goal": name})
        with Replayer(outbox, MlflowSink(tmp_path)) as replayer:
            assert replayer.drain(120.0) == 0
    uids = [read_uid(tmp_path / name) for name in ("one", "two")]
    one, two = (find_tracked(uri, STUDY, uid) for uid in uids)
    assert one.experiment != two.experiment
    assert find_tracked(uri, STUDY, read_uid(tmp_path / "never")).experiment is None
    api = connect(uri)
    api.rename_experiment(two.experiment, "kept for years")
    remove_tracked(find_tracked(uri, STUDY, uids[1]), STUDY)
    assert [each.experiment_id for each in api.search_experiments()] == [one.experiment, "0"]
    assert find_tracked(uri, STUDY, uids[1]).experiment is None
    assert len(find_tracked(uri, STUDY, uids[0]).runs) == 1
