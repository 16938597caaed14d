"""The published families: what their sources say, within every range, and which one is the strongest."""

import re

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FixedTrial

from meanflow_tune.config.effects import without_effect
from meanflow_tune.search.space.draws import draw_fixed
from meanflow_tune.search.space.load import load_space
from search_spaces._families import FAMILIES, RATES, STRONGEST
from search_spaces.second_order import parameters
from tests.support.paths import ROOT

# In the papers' time, noise at 1: (mean, std) of the times, share with r = t, power, c, dimensions.
PAPERS = {
    "meanflow_cifar10": ((-2.0, 2.0), 0.25, 0.75, 1e-3, 3072),
    "meanflow_imagenet": ((-0.4, 1.0), 0.75, 1.0, 1e-2, 4096),
    "alpha_flow": ((-0.4, 1.0), 0.5, 1.0, 1e-3, 4096),  # its constant is another: see its source
}


@pytest.mark.parametrize("name", PAPERS)
def test_settings_are_the_published_ones_mirrored(name: str) -> None:
    (mean, std), share, power, c, dimensions = PAPERS[name]
    family = FAMILIES[name]
    sampler, weighting = family.time_sampler, family.weighting
    assert (sampler.mean, sampler.std) == (-mean, std)
    assert (sampler.diagonal_share, weighting.power) == (share, power)
    assert weighting.epsilon == pytest.approx(c / 64), "c on the sum, moved to a sample of 64"
    assert weighting.epsilon * 64 / dimensions < 1e-5, "on the papers' own samples it is tiny"


def test_version_1_draws_start_and_end_separately() -> None:
    sampler = FAMILIES["meanflow_cifar10_v1"].time_sampler
    assert (sampler.start.mean, sampler.start.std) == (0.6, 1.6)
    assert (sampler.end.mean, sampler.end.std) == (4.0, 1.6)
    assert (sampler.pairing, sampler.diagonal_at) == ("end_max", "start")


def test_every_family_has_a_source_and_a_pair() -> None:
    space = load_space("published")
    assert len(space.baselines) == len(FAMILIES) * len(RATES) * 2
    for name, family in FAMILIES.items():
        assert re.search(r"arXiv \d{4}\.\d{5}|py-meanflow|nobody has published", family.source), (
            name
        )
        alone, paired = (
            [space.suggest(FixedTrial(space.baselines[run])) for run in space.families[which]]
            for which in (name, f"{name}_second_order")
        )
        assert [config.optimizer.learning_rate for config in alone] == list(RATES.values())
        for one, other in zip(alone, paired, strict=True):
            assert one.losses.second_order is None
            assert other.losses.second_order.share == 0.1
            scaled = {n: 0.9 * loss.share for n, loss in one.losses.active.items()}
            rest = {n: x.share for n, x in other.losses.active.items() if n != "second_order"}
            assert rest == pytest.approx(scaled)
            same = {"losses": None}
            assert one.to_dict() | same == other.to_dict() | same
            assert without_effect(one) is None
            assert without_effect(other) is None
    assert set(space.reference) == {run for name in FAMILIES for run in space.families[name]}


@pytest.mark.parametrize(
    "name", ["meanflow_cifar10", "meanflow_cifar10_v1", "meanflow_imagenet", "forward"]
)
@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("rate", RATES.values())
def test_the_ranges_of_the_default_space_contain_them(
    name: str, second_order: bool, rate: float
) -> None:
    space, family = load_space("second_order"), FAMILIES[name]
    params = parameters(family, second_order) | {"optimizer/learning_rate": rate}
    drawn = draw_fixed(space.suggest, params)
    assert drawn.config.time_sampler == family.time_sampler
    assert drawn.config.weighting == family.weighting
    for parameter, distribution in drawn.distributions.items():
        if isinstance(distribution, FloatDistribution):
            assert distribution.low <= params[parameter] <= distribution.high, parameter


def test_no_space_clips() -> None:
    """Clipping by norm acts on every step at a high power and on none at a low one."""
    for name in ("published", "second_order", "second_order_flat", "second_order_wide"):
        space = load_space(name)
        for params in space.baselines.values():
            assert space.suggest(FixedTrial(params)).optimizer.clip_norm is None


def test_the_strongest_is_that_of_the_published_table() -> None:
    """The reference is what the command of search_spaces/_families.py found, not a choice by hand."""
    page = (ROOT / "docs" / "BENCHMARKS.md").read_text()
    table = page.partition("## Published families")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", table, flags=re.MULTILINE)
    found = {name: float(value) for name, value in rows}
    assert set(found) == set(FAMILIES)
    assert min(found, key=found.__getitem__) == STRONGEST
