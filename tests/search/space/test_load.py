"""Search spaces: how they load, and the one that this project is about."""

import hashlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import optuna
import pytest
from optuna.trial import FixedTrial

from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.samplers.factory import make_sampler
from meanflow_tune.search.space import load
from meanflow_tune.search.space.load import check_baseline, known_spaces, load_space
from search_spaces._families import FAMILIES, STRONGEST

TOY = """
GOAL = "find x"
OBJECTIVE = "gap@1"
BASELINES = {"zero": {"x": 0.0, "kind": "a"}}
def suggest(trial):
    return {"x": trial.suggest_float("x", -1, 1), "kind": trial.suggest_categorical("kind", "ab")}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "toy.py"
    path.write_text(text)
    return path


def test_load_from_a_path(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, TOY))
    assert (space.name, space.goal, str(space.objective)) == ("toy", "find x", "gap@1")
    assert space.baselines == {"zero": {"x": 0.0, "kind": "a"}}
    other = load_space(write(tmp_path, TOY + "# changed\n"))
    assert other.source_hash != space.source_hash


def hash_follows(space: Path, helper: Path) -> bool:
    """Whether the hash of a space, which must load, changes with a file."""
    helper.write_text("X = 1\n")
    before = load_space(space).source_hash
    helper.write_text("X = 2\n")
    return load_space(space).source_hash != before


@pytest.mark.parametrize(
    "line",
    [
        "from search_spaces._base import X",
        "from search_spaces import _base",
        "import search_spaces._base as b",
        "import search_spaces._middle",
        "from ._base import X",
        "from . import _base",
        "from ._middle import X",
    ],
)
def test_the_hash_covers_what_a_space_imports_from_search_spaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """At any depth, and by every form of import that loads."""
    package = ModuleType("search_spaces")
    package.__path__ = [str(tmp_path)]
    monkeypatch.setitem(sys.modules, "search_spaces", package)
    for name in ("_base", "_middle", "toy"):  # set and deleted: the test leaves none behind
        monkeypatch.setitem(sys.modules, f"search_spaces.{name}", package)
        monkeypatch.delitem(sys.modules, f"search_spaces.{name}")
    monkeypatch.setattr(load, "spaces_folder", lambda: tmp_path)
    (tmp_path / "_base.py").write_text("X = 1\n")
    (tmp_path / "_middle.py").write_text("from search_spaces._base import X\n")
    space = write(tmp_path, f"{line}\n{TOY}")
    assert hash_follows(space, tmp_path / "_base.py")
    assert not hash_follows(space, tmp_path / "_other.py")


@pytest.mark.parametrize(
    ("line", "helper"),
    [
        ("import helper_a", "helper_a.py"),
        ("import helper_a as h", "helper_a.py"),
        ("from helper_a import X", "helper_a.py"),
        ("from helper_b import X", "helper_a.py"),
        ("from helpers.inner import X", "helpers/inner.py"),
        ("import helpers.inner", "helpers/__init__.py"),
        ("from helpers import X", "helpers/__init__.py"),
        ("from helpers import near", "helpers/inner.py"),
        ("from {folder}.helper_c import X", "helper_c.py"),
        ("def later():\n    import helper_a", "helper_a.py"),
    ],
)
def test_the_hash_covers_what_a_file_imports_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, helper: str
) -> None:
    for place in (tmp_path.parent, tmp_path):
        monkeypatch.syspath_prepend(place)
    for name in ("helper_a", "helper_b", "helpers", "helpers.inner", "helpers.near"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "helpers").mkdir()
    files = {
        "helper_a.py": "X = 1",
        "helper_b.py": "from helper_a import X",
        "helper_c.py": "X = 1",
        "helpers/__init__.py": "X = 1",
        "helpers/inner.py": "X = 1",
        "helpers/near.py": "from .inner import X",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(f"{text}\n")
    space = write(tmp_path, f"{line.format(folder=tmp_path.name)}\n{TOY}")
    assert hash_follows(space, tmp_path / helper)


def test_a_space_that_imports_no_file_has_the_hash_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("X = 1\n")
    space = write(tmp_path, f"import math\nfrom meanflow_tune.settings import Settings\n{TOY}")
    (tmp_path / "meanflow_tune").mkdir()
    (tmp_path / "meanflow_tune" / "settings.py").write_text("X = 1\n")
    assert load_space(space).source_hash == hashlib.sha256(space.read_bytes()).hexdigest()


def test_the_toy_has_the_parameters_of_second_order() -> None:
    toy, digits = load_space("eight_gaussians"), load_space("second_order")
    for params in digits.baselines.values():
        theirs, ours = digits.suggest(FixedTrial(params)), toy.suggest(FixedTrial(params))
        assert ours.data.kind == "eight_gaussians"
        assert ours.losses == theirs.losses
        assert ours.time_sampler == theirs.time_sampler
        assert ours.budget.rungs == (0.1, 0.25, 0.5, 1.0)
    for name, params in digits.baselines.items():
        # The published constant is on the sum over the dimensions: 64 of a digit, 2 of the plane.
        scaled = params | {"weighting/epsilon": params["weighting/epsilon"] * 32}
        assert toy.baselines[name] == scaled
    assert list(toy.baselines) == list(digits.baselines)
    assert toy.source_hash != digits.source_hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('GOAL = "find x"', "", "lacks GOAL"),
        ('"find x"', '" "', "GOAL of search space"),
        ('"gap@1"', '"loss@1"', "OBJECTIVE of search space .* training loss"),
        ('"gap@1"', "3", "must be text or a SearchObjective"),
        ('{"zero"', '["zero"] and {1: {3}', "BASELINES .* must be JSON data"),
        ('"x": 0.0, ', "", "baseline 'zero': .*parameter 'x' is not found"),
        ('"x": 0.0', '"x": 0.0, "y": 1', "baseline 'zero' fixes y, which suggest does not ask for"),
        ('"x": 0.0', '"x": 3.0', "baseline 'zero': .*3.0 .*'x' is out of the range"),
        ('"kind": "a"', '"kind": "c"', "baseline 'zero': parameter 'kind': 'c' not in"),
        ("def suggest", "import no_such_module\ndef suggest", "ModuleNotFoundError"),
    ],
)
def test_faulty_spaces_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TOY
    text = TOY.replace(old, new, 1)
    if "{3}" in new:
        text = text.replace('{1: {3}: {"x": 0.0, "kind": "a"}}', "{1: {3}}")
    with pytest.raises(SpaceError, match=message):
        load_space(write(tmp_path, text))


FAMILY = TOY.replace("def suggest", 'BASELINES["one"] = {"x": 1.0, "kind": "b"}\n{}\ndef suggest')


def test_baselines_come_in_families(tmp_path: Path) -> None:
    """Without FAMILIES the reference is one; whatever is in none is one by itself."""
    plain = load_space(write(tmp_path, FAMILY.replace("{}\ndef", "\ndef")))
    assert plain.families == {"zero": ("zero",), "one": ("one",)}
    text = FAMILY.replace("{}\ndef", 'REFERENCE = ("one",)\ndef')
    assert load_space(write(tmp_path, text)).families == {"reference": ("one",), "zero": ("zero",)}
    text = FAMILY.replace("{}\ndef", 'FAMILIES = {"both": ("one", "zero")}\ndef')
    assert load_space(write(tmp_path, text)).families == {"both": ("one", "zero")}
    shipped = load_space("second_order")
    (strongest,) = (names for names in shipped.families.values() if len(names) == 3)
    assert strongest == shipped.reference


@pytest.mark.parametrize(
    ("families", "message"),
    [
        ('("one",)', "must map names"),
        ('{"a": ("two",)}', "FAMILIES .*two is no BASELINE"),
        ('{"a": ("one",), "b": ("one",)}', "one is in two families"),
        ('{"zero": ("one",)}', "zero is also the name of a baseline"),
    ],
)
def test_faulty_families_are_refused(tmp_path: Path, families: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load_space(write(tmp_path, FAMILY.replace("{}\ndef", f"FAMILIES = {families}\ndef")))


@pytest.mark.parametrize(
    ("sources", "message"),
    [('{"one": 3}', "must map names of families to text"), ('{"two": "x"}', "two.*no families")],
)
def test_faulty_sources_are_refused(tmp_path: Path, sources: str, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        load_space(write(tmp_path, FAMILY.replace("{}\ndef", f"SOURCES = {sources}\ndef")))


def test_every_reference_of_a_shipped_space_has_a_source() -> None:
    for name in known_spaces():
        space = load_space(name)
        of = {member: family for family, members in space.families.items() for member in members}
        assert {of[baseline] for baseline in space.reference} <= set(space.sources), name


def test_unknown_spaces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"'secondorder' is unknown; known: .*second_order"):
        load_space("secondorder")
    with pytest.raises(SpaceError, match="there is no search space at"):
        load_space(tmp_path / "none.py")
    assert "second_order" in known_spaces()


@pytest.fixture(scope="module")
def space() -> Any:
    return load_space("second_order")


@pytest.fixture(scope="module")
def drawn(space: Any) -> list[tuple[dict[str, Any], Any]]:
    """Parameters and configurations of blind draws, as a search makes them."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    trials = []
    for number in range(150):
        study.sampler = make_sampler("random", 1, number, 10)
        trial = study.ask()
        trials.append((trial, space.suggest(trial)))
    return [(trial.params, config) for trial, config in trials]


def test_baselines(space: Any) -> None:
    """Each trains as the published family of its name does, and one more with a second-order share."""
    strongest = FAMILIES[STRONGEST]
    expected = {
        **{f"{STRONGEST}_lr_{rate}": strongest.settings() for rate in ("mid", "low", "high")},
        "meanflow_cifar10_v1": FAMILIES["meanflow_cifar10_v1"].settings(),
        "backward_forward": FAMILIES["backward_forward"].settings(),
        f"{STRONGEST}_second_order": strongest.settings(second_order=True),
    }
    assert list(space.baselines) == list(expected)
    for name, settings in expected.items():
        config = space.suggest(FixedTrial(space.baselines[name]))
        for part in ("time_sampler", "weighting", "ds_schedule"):
            assert getattr(config, part) == settings[part], (name, part)
        for loss, given in settings["losses"].active.items():
            ours = config.losses.active[loss]
            assert ours.share == pytest.approx(given.share, abs=1e-15)
            assert ours.ramp == given.ramp
        assert config.losses.active.keys() == settings["losses"].active.keys()
    rates = {
        space.suggest(FixedTrial(space.baselines[name])).optimizer.learning_rate
        for name in space.families[STRONGEST]
    }
    assert len(rates) == 3
    assert space.reference == space.families[STRONGEST]
    params = dict(space.baselines[f"{STRONGEST}_lr_mid"])
    del params["weighting/power"]
    with pytest.raises(SpaceError, match="weighting/power"):
        check_baseline(space.suggest, "forward", params)


def test_draws_are_valid_and_shares_sum_to_one(drawn: list[tuple[dict[str, Any], Any]]) -> None:
    for params, config in drawn:
        shares = {name: loss.share for name, loss in config.losses.active.items()}
        assert abs(math.fsum(shares.values()) - 1.0) <= 2**-52
        sign = params["loss/second_order/sign"]
        assert math.copysign(1, shares.get("second_order", sign)) == math.copysign(1, sign)
        assert ("second_order" in shares) == (sign != 0)
        assert ("tri_consistency" in shares) == params["loss/tri_consistency/active"]
        assert all(share > 0 for name, share in shares.items() if name != "second_order")


def test_every_branch_is_reached(drawn: list[tuple[dict[str, Any], Any]]) -> None:
    configs = [config for _, config in drawn]
    kinds = {config.ds_schedule.kind for config in configs if config.ds_schedule}
    assert len(kinds) == 7
    assert {c.time_sampler.kind for c in configs} == {
        "uniform",
        "logit_normal",
        "separate",
        "beta",
        "gap_first",
    }
    assert {c.x_source.kind for c in configs} == {"student_jump", "teacher_ode", "annealed"}
    assert {params["loss/second_order/sign"] for params, _ in drawn} == {-1, 0, 1}


def test_no_parameter_is_asked_for_in_vain(
    space: Any, drawn: list[tuple[dict[str, Any], Any]]
) -> None:
    """Moving any parameter of a draw changes its configuration."""
    seen: set[str] = set()
    for params, config in drawn:
        trial = FixedTrial(params)
        space.suggest(trial)
        for name, distribution in trial.distributions.items():
            if name in seen or isinstance(
                distribution, optuna.distributions.CategoricalDistribution
            ):
                continue
            seen.add(name)
            low, high = distribution.low, distribution.high
            moved = params | {name: low if params[name] != low else high}
            assert space.suggest(FixedTrial(moved)) != config, name
    assert len(seen) > 20


def test_the_flat_space_is_the_same_question_in_numbers_alone(space: Any) -> None:
    flat = load_space("second_order_flat")
    assert (flat.goal, flat.objective) == (space.goal, space.objective)
    assert flat.reference == space.reference
    # Whose times are not sorted pairs.
    assert set(flat.baselines) == set(space.baselines) - {"meanflow_cifar10_v1"}
    for name, params in flat.baselines.items():
        ours = flat.suggest(FixedTrial(params)).to_dict()
        theirs = space.suggest(FixedTrial(space.baselines[name])).to_dict()
        for loss in ("backward", "forward", "second_order"):
            share = [(one["losses"][loss] or {"share": 0.0})["share"] for one in (ours, theirs)]
            assert share[0] == pytest.approx(share[1], abs=1e-15)
        assert ours | {"losses": None} == theirs | {"losses": None}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    signs = set()
    for _ in range(60):
        trial = study.ask()
        config = flat.suggest(trial)
        distributions = trial.distributions
        assert sorted(distributions) == sorted(flat.baselines["backward_forward"])
        assert not any(
            isinstance(distribution, optuna.distributions.CategoricalDistribution)
            for distribution in distributions.values()
        )
        shares = [loss.share for loss in config.losses.active.values()]
        assert len(shares) == 3
        assert abs(math.fsum(shares) - 1.0) <= 2**-52
        signs.add(math.copysign(1, config.losses.second_order.share))
        for name, distribution in distributions.items():
            moved = trial.params | {
                name: distribution.low
                if trial.params[name] != distribution.low
                else distribution.high
            }
            assert flat.suggest(FixedTrial(moved)) != config, name
    assert signs == {-1, 1}
