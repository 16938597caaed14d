"""The seeds of a search: those of training, teacher and evaluation latents follow from `--seed`.

Two searches of different `--seed` share their data and nothing that is drawn.
"""

from dataclasses import dataclass
from typing import Any

from meanflow_tune.config import Evaluation, TeacherConfig, TrialConfig
from meanflow_tune.core.random import fold
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.search.store.manifest import Manifest

SEED_LIMIT = 2**31


@dataclass(frozen=True)
class Seeds:
    """Seeds of the student's training, of its teacher's, and of the latents of the evaluation."""

    training: int
    teacher: int
    latents: int

    @classmethod
    def of(cls, search_seed: int) -> "Seeds":
        """Derived from the seed of a search, each for its own purpose."""
        names = ("training", "teacher", "latents")
        return cls(*(fold(search_seed, "search", name) % SEED_LIMIT for name in names))

    def apply(self, config: TrialConfig) -> TrialConfig:
        """`config` with these seeds in place of those that are at their defaults, which set nothing."""
        changed: dict[str, Any] = {}
        if config.seed == TrialConfig.model_fields["seed"].default:
            changed["seed"] = self.training
        teacher, evaluation = config.teacher, config.evaluation
        if teacher is not None and teacher.seed == TeacherConfig.model_fields["seed"].default:
            changed["teacher"] = teacher.model_copy(update={"seed": self.teacher})
        latent_seed = Evaluation.model_fields["latent_seed"].default
        if evaluation is not None and evaluation.latent_seed == latent_seed:
            changed["evaluation"] = evaluation.model_copy(update={"latent_seed": self.latents})
        return config.model_copy(update=changed)


def seeds_of(request: SearchRequest) -> Seeds | None:
    """The seeds of a search; None for a study of an earlier revision, which left all at their defaults."""
    manifest = None if request.resume == "fresh" else Manifest.read(request.folder)
    if manifest is not None and manifest.seeds is None:
        return None
    return Seeds.of(request.seed)
