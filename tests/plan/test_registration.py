"""Names in the registry, and what is said of winner and baseline."""

from meanflow_tune.plan.registration import config_digest, model_name
from meanflow_tune.search.objectives import Objectives
from tests.support.tiny_run import tiny_config

THREE = Objectives.parse("geometric_mean(teacher_gap@1,teacher_gap@2,teacher_gap@4)")


def test_a_name_is_of_data_teacher_and_objective() -> None:
    config = tiny_config()
    name = model_name(config, "0123", THREE)
    assert name.startswith("eight_gaussians-")
    assert name.endswith("-teacher_gap_1_2_4")
    assert name == model_name(tiny_config(seed=5), "0123", THREE), "whatever the student"
    assert name != model_name(config, "4567", THREE), "other data"
    mean = Objectives.parse("mean(teacher_gap@1,sliced_wasserstein@2)")
    assert model_name(config, "0", mean).endswith("-mean_teacher_gap_1_sliced_wasserstein_2")
    several = Objectives.parse("teacher_gap@1,cost")
    assert model_name(config, "0", several).endswith("-teacher_gap_1-cost")
    assert config.teacher is not None
    budget = config.teacher.budget.model_copy(update={"images": 1280})
    other = config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"budget": budget})}
    )
    assert model_name(other, "0123", THREE) != name, "another teacher"


def test_a_configuration_is_known_again_on_another_seed() -> None:
    first, second = tiny_config().to_dict(), tiny_config(seed=9).to_dict()
    second["evaluation"] |= {"latent_seed": 77}
    second["budget"] |= {"rungs": [1.0]}
    assert config_digest(first) == config_digest(second)
    second["optimizer"] |= {"learning_rate": 0.5}
    assert config_digest(first) != config_digest(second)
