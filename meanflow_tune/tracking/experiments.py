"""The experiment of a study in MLflow, found by a tag: people rename and delete experiments."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from meanflow_tune.tracking.mlflow_store import NAME_TAG
from meanflow_tune.tracking.run_tree import SEARCH_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

STUDY_TAG = "meanflow_tune.study"  # the uid of the study's outbox
# Without it, the pages treat it as a project with language models.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_MARK = 8  # characters of the uid that tell apart studies of one name


def find_experiment(
    client: "MlflowClient",
    study: str,
    uid: str,
    place: Callable[[str], str | None],
    say: Callable[[str], None],
) -> str:
    """The id of the experiment of the study `uid`: its own, restored if it was deleted, or a new one.

    It is called like the study, or like the study and a part of the uid where another study has that
    name. An experiment that somebody made beforehand, without runs of another study, is taken. place: of
    the artifacts of an experiment of this name; None leaves it to the server.
    """
    found, tags = own_experiment(client, study, uid), {}
    if found is None or STUDY_TAG not in found.tags:
        name = study
        if found is None and client.get_experiment_by_name(name) is not None:
            name = f"{study}-{uid[:_MARK]}"
            say(
                f"MLflow has an experiment {study} of another study of this name; the runs of this one are "
                f"in the experiment {name}"
            )
            found = client.get_experiment_by_name(name)
        tags = {STUDY_TAG: uid, NAME_TAG: name}
        if found is None:
            all_tags = {**EXPERIMENT_TAGS, **tags}
            return client.create_experiment(name, artifact_location=place(name), tags=all_tags)
    number = str(found.experiment_id)
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(number)
        say(f"MLflow's experiment {found.name} was deleted; it is restored")
    for key, value in tags.items():
        client.set_experiment_tag(number, key, value)
    return number


def own_experiment(client: "MlflowClient", study: str, uid: str) -> "Experiment | None":
    """The experiment of the study `uid`, a deleted one too: by its tag, else by its name.

    One of that name without a tag, and without runs of another study, counts: it was made by an earlier
    revision, or by hand.
    """
    from mlflow.entities import ViewType

    mine = client.search_experiments(
        view_type=ViewType.ALL, filter_string=f"tags.`{STUDY_TAG}` = '{uid}'"
    )
    if mine:
        return min(mine, key=lambda each: each.lifecycle_stage != "active")
    named = client.get_experiment_by_name(study)
    return named if named is not None and not _is_foreign(client, named, uid) else None


def _is_foreign(client: "MlflowClient", experiment: "Experiment", uid: str) -> bool:
    """Whether an experiment belongs to another study; earlier revisions left no tag, but runs."""
    from mlflow.entities import ViewType

    owner = experiment.tags.get(STUDY_TAG)
    if owner is not None:
        return bool(owner != uid)
    own, other = (
        client.search_runs(
            [experiment.experiment_id], f"tags.`{SEARCH_TAG}` {sign} '{uid}'", ViewType.ALL, 1
        )
        for sign in ("=", "!=")
    )
    return bool(other) and not own
