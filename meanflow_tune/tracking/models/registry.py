"""The model registry: one registered model per data set, teacher and objective, whatever the study.

`candidate` is the winner of the last search, `baseline` its best baseline. `champion` moves only to a model
that a confirmation found better than the present champion, which must have been among what it compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meanflow_tune.tracking.outbox import Event

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, BASELINE = "champion", "baseline"
ORIGIN_TAG = "meanflow_tune.trial"  # of a version: the trial that it was trained in
CONFIG_TAG = "meanflow_tune.config"  # digest of its configuration without seeds
WHY_TAG = "champion_because"
TEXT = 5000  # characters of a tag that MLflow takes


@dataclass(frozen=True)
class _Verdict:
    """becomes: whether the winner becomes the champion; why: one sentence."""

    becomes: bool
    why: str


class Registry:
    """client: for one call; model_of: the logged model of a trial, by study, uid and trial."""

    def __init__(
        self, client: Callable[[], "MlflowClient"], model_of: Callable[[str, str, str], Any]
    ) -> None:
        self._client, self._model_of = client, model_of

    def apply(self, event: Event, p: Mapping[str, Any]) -> None:
        """Register the models that `plan.registration` names; those that were not logged are left out."""
        name = p["name"]
        self._ensure(name, p["description"])
        own: dict[str, ModelVersion] = {}
        for entry in p["versions"]:
            model = self._model_of(p["study"], p["uid"], entry["trial"])
            if model is not None:
                own[entry["trial"]] = self._version(name, model, p["uid"], entry)
        for entry in p["versions"]:
            version = own.get(entry["trial"])
            if version is None:
                continue
            for alias in entry["aliases"]:
                self._client().set_registered_model_alias(name, alias, version.version)
            text = entry["description"]
            if entry["trial"] == p["winner"]:
                text += f"\n\n{self._crown(name, version, p)}"
            self._client().update_model_version(name, version.version, text)

    def _ensure(self, name: str, description: str) -> None:
        if self._client().search_registered_models(f"name = '{name}'"):
            self._client().update_registered_model(name, description)
        else:
            self._client().create_registered_model(name, description=description)

    def _version(self, name: str, model: Any, uid: str, entry: Mapping[str, Any]) -> "ModelVersion":
        """The version of a trial, made if there is none."""
        origin = f"{uid}/{entry['trial']}"
        found = self._client().search_model_versions(f"name = '{name}'")
        known = next((v for v in found if v.tags.get(ORIGIN_TAG) == origin), None)
        if known is not None:
            return known
        return self._client().create_model_version(
            name,
            model.artifact_location,  # its URI would be looked up on the global server
            run_id=model.source_run_id,
            tags={ORIGIN_TAG: origin, CONFIG_TAG: entry["config"]},
            model_id=model.model_id,
            await_creation_for=0,
        )

    def _crown(self, name: str, winner: "ModelVersion", p: Mapping[str, Any]) -> str:
        """Move the alias where the confirmation says so; returns the sentence about it."""
        present = self._champion(name)
        if present is not None and present.version == winner.version:
            return f"Champion: {present.tags.get(WHY_TAG, 'it was before')}"
        verdict = _judge(present, p)
        if not verdict.becomes:
            return f"Not champion: {verdict.why}"
        # Before the alias: a kill in between leaves a reason without a champion, and is repeated.
        self._client().set_model_version_tag(name, winner.version, WHY_TAG, verdict.why[:TEXT])
        self._client().set_registered_model_alias(name, CHAMPION, winner.version)
        return f"Champion: {verdict.why}"

    def _champion(self, name: str) -> "ModelVersion | None":
        aliases = self._client().get_registered_model(name).aliases
        if CHAMPION not in aliases:
            return None
        return self._client().get_model_version(name, str(aliases[CHAMPION]))


def _judge(present: "ModelVersion | None", p: Mapping[str, Any]) -> _Verdict:
    """Of the winner against the present champion, or, without one, against the best baseline."""
    uid, contests = p["uid"], p["contests"]
    if not contests:
        return _Verdict(False, p["unconfirmed"])
    if present is None:
        whom = "the best baseline"
        found = next((each for each in contests if BASELINE in each["aliases"]), None)
    else:
        whom = f"version {present.version}, the champion until then"
        tags = present.tags
        found = next(
            (
                each
                for each in contests
                if tags.get(ORIGIN_TAG) == f"{uid}/{each['trial']}"
                or tags.get(CONFIG_TAG) == each["config"]
            ),
            None,
        )
    if found is None and present is None and BASELINE in p["winner_aliases"]:
        return _Verdict(False, "the winner is the best baseline itself.")
    if found is None:
        remedy = "" if present is None else "; import its study, or add it to the space's baselines"
        return _Verdict(False, f"{whom} was not among what was confirmed{remedy}.")
    if found["seeds"] < p["seeds_for_level"]:
        return _Verdict(
            False,
            f"{found['seeds']} fresh seeds say too little for an interval at 95 %; --confirm-seeds "
            f"{p['seeds_for_level']} decides it against {whom}: {found['text']}.",
        )
    if not found["better"]:
        return _Verdict(False, f"it is not shown to be better than {whom}: {found['text']}.")
    return _Verdict(True, f"it is better than {whom}: {found['text']}.")
