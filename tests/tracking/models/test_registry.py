"""The registry against a real MLflow: versions, aliases, and who becomes champion."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from meanflow_tune.files import mlflow_uri
from meanflow_tune.tracking.events import Origin, Tracker
from meanflow_tune.tracking.mlflow_sink import MlflowSink
from meanflow_tune.tracking.outbox import Event, Outbox
from tests.support.stories import STUDY, make_record, make_report, make_student

pytestmark = pytest.mark.slow  # MLflow creates its database
NAME = "digits-0a1b2c3d-teacher_gap_1"
HELD_OUT = {
    "name": "digits held out",
    "digest": "0123",
    "source_type": "meanflow_tune",
    "source": "{}",
    "context": "held_out",
}


def events(outbox: Outbox, skip: int = 0) -> Iterator[Event]:
    offset = 0
    for seq in range(outbox.written):
        event = outbox.read(offset, seq)
        assert event is not None
        offset = event.end
        if seq >= skip:
            yield event


class Search:
    """Trials 0 (the baseline), 1 and 2 of a study, completed and with models."""

    def __init__(self, folder: Path, study: str, sink: MlflowSink) -> None:
        self.outbox, self.sink, self.applied = Outbox(folder / study), sink, 0
        self.tracker = Tracker(self.outbox, study, Origin({}, [HELD_OUT]))
        self.tracker.search_started({"goal": "?"})
        model = make_student(folder / study / "model")
        records = [
            make_record(n, "completed", (make_report(64, 0.25),), study=study) for n in range(3)
        ]
        self.tracker.catch_up(records, lambda record: model)

    def register(self, winner: int, **contest: Any) -> MlflowClient:
        """Trial 0 against the winner, with this result."""
        against = {"trial": "0", "aliases": ["baseline"], "config": "c0", "text": "by far"}
        entry = {
            "name": NAME,
            "description": "Students",
            "winner": str(winner),
            "winner_aliases": ["candidate"],
            "versions": [
                self.version(winner, "candidate"),
                self.version(0, "baseline"),
            ],
            "contests": [against | {"seeds": 6, "better": True} | contest] if contest else [],
            "seeds_for_level": 6,
            "unconfirmed": "nothing was retrained.",
        }
        self.tracker.registered(entry)
        told = list(events(self.outbox, self.applied))
        self.applied = self.outbox.written
        for event in (*told, *told[-1:]):  # the last one twice
            self.sink.apply(event)
        return self.sink._client()

    def version(self, trial: int, alias: str) -> dict[str, Any]:
        text = f"trial {trial}"
        return {
            "trial": str(trial),
            "aliases": [alias],
            "config": f"c{trial}",
            "description": text,
        }


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def sink(storage: Path) -> MlflowSink:
    return MlflowSink(storage)


def aliases(api: MlflowClient) -> dict[str, str]:
    """Alias -> the trial of its version."""
    found = api.get_registered_model(NAME).aliases
    versions = {alias: api.get_model_version(NAME, str(number)) for alias, number in found.items()}
    return {alias: version.description.split("\n")[0] for alias, version in versions.items()}


def said(api: MlflowClient) -> str:
    return str(api.get_model_version_by_alias(NAME, "candidate").description)


def test_a_champion_has_beaten_the_one_before_it(sink: MlflowSink, storage: Path) -> None:
    first = Search(storage, STUDY, sink)
    api = first.register(1)
    assert aliases(api) == {"candidate": "trial 1", "baseline": "trial 0"}
    assert "Not champion: nothing was retrained" in said(api)
    first.register(1, seeds=2)
    assert "champion" not in aliases(api), "two seeds say too little"
    assert "--confirm-seeds 6 decides it against the best baseline: by far" in said(api)
    first.register(1, better=False)
    assert "not shown to be better than the best baseline" in said(api)
    assert "champion" not in aliases(api)
    first.register(1, better=True)
    assert aliases(api) == {"candidate": "trial 1", "baseline": "trial 0", "champion": "trial 1"}
    assert "Champion: it is better than the best baseline: by far." in said(api)
    # A later winner of the study that beat the baseline, and never met the champion.
    first.register(2, better=True)
    assert aliases(api)["champion"] == "trial 1"
    assert aliases(api)["candidate"] == "trial 2"
    assert "the champion until then was not among what was confirmed" in said(api)
    # Another study had the champion's configuration among what it confirmed.
    second = Search(storage, "later", sink)
    second.register(2, trial="1", config="c1", aliases=[], better=True)
    versions = api.search_model_versions(f"name = '{NAME}'")
    champion = api.get_model_version_by_alias(NAME, "champion")
    assert champion.tags["meanflow_tune.trial"] == f"{second.outbox.uid}/2"
    assert len(versions) == 5, "one version per trial, however often it is registered"
    assert "it is better than version" in said(api)


def test_a_model_has_the_metrics_of_its_trial_on_the_held_out_data(
    sink: MlflowSink, storage: Path
) -> None:
    search = Search(storage, "metrics", sink)
    api = search.register(1)
    experiment = api.get_experiment_by_name("metrics")
    assert experiment is not None
    models = {m.name: m for m in api.search_logged_models([experiment.experiment_id])}
    assert models.keys() == {f"metrics-trial-0000{n}" for n in range(3)}
    model = api.get_logged_model(models["metrics-trial-00001"].model_id)
    found = {m.key: (m.value, m.dataset_name, m.dataset_digest) for m in model.metrics or []}
    assert found["objective"] == (0.25, "digits held out", "0123")
    assert found["teacher_gap/nfe_4"] == (0.125, "digits held out", "0123")
    version = api.get_model_version_by_alias(NAME, "candidate")
    assert model.model_id in str(version.source), "MLflow's own store keeps no id"
    assert version.run_id == model.source_run_id


def test_mlflow_finds_the_model_by_its_alias(
    sink: MlflowSink, storage: Path, tmp_path: Path
) -> None:
    from meanflow_tune.tracking.models.logged_model import download_student

    search = Search(storage, "found", sink)
    search.register(1)
    uri = mlflow_uri(Path(sink._storage).resolve())
    folder = download_student(f"models:/{NAME}@candidate", uri, tmp_path / "got")
    assert (folder / "config.json").is_file()
