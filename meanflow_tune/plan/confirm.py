"""Confirmation: the best trials and the baselines retrained on fresh seeds and judged on fresh latents.

The sibling study `NAME/confirm` holds these runs, so that they resume like any others. Runs with the
same seed share everything drawn from it (weights, data order, noise, times), and all runs share latents
that the search never used. A baseline whose learning rate is untuned first runs at three of them, on
one more seed with its own latents; the best of the three is confirmed. Where the space asks a question
about a factor, configurations run with and without it, on the same seeds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from meanflow_tune.config import Question
from meanflow_tune.core.random import fold
from meanflow_tune.plan.plan import Plan
from meanflow_tune.plan.request import SearchRequest
from meanflow_tune.records import TrialRecord
from meanflow_tune.search.analysis.ranking import Row, final_table, rank_trials
from meanflow_tune.search.objectives import Objectives
from meanflow_tune.search.space.draws import AnyTrial
from meanflow_tune.search.space.load import Space
from meanflow_tune.search.store.storage import Storage
from meanflow_tune.search.store.trials import BASELINE
from meanflow_tune.search.study.ledger import Ledger

SEED_LIMIT = 2**31
# What a learning rate is multiplied by to tune it.
FACTORS = (1 / 3, 1.0, 3.0)
FACTOR = "learning_rate_factor"
SWITCHED = "switched"  # parameter of a run on the other side of the question's factor
HIGHEST_RATE = 1.0  # what a configuration allows


@dataclass(frozen=True)
class Side:
    """One configuration to confirm: a trial of the search, or a family of baselines.

    candidate: the trial whose configuration is trained; untuned: its learning rate is first chosen from
    three, which the search has not tried; switched: its configuration with the question's factor switched,
    on if it is off and off if it is on; family: of baselines, where the side represents one.
    """

    name: str
    candidate: TrialRecord
    untuned: bool = False
    switched: bool = False
    family: str = ""


@dataclass(frozen=True)
class Entry:
    """One run of a trial's configuration on a seed, at a multiple of its learning rate.

    factor: None for its own learning rate, outside of tuning; switched: as of a side, and how its name
    says it.
    """

    candidate: int
    seed: int
    factor: float | None = None
    switched: bool = False
    how: str = field(default=" switched", compare=False)

    @property
    def name(self) -> str:
        other = self.how if self.switched else ""
        rate = "" if self.factor is None else f" at {self.factor:.3g} x its learning rate"
        return f"trial {self.candidate}{other}{rate}, seed {self.seed}"

    @property
    def params(self) -> dict[str, float]:
        rate = {} if self.factor is None else {FACTOR: self.factor}
        other = {SWITCHED: 1} if self.switched else {}
        return {"candidate": self.candidate, "seed": self.seed, **rate, **other}


def sides(
    records: Iterable[TrialRecord], space: Space, objectives: Objectives, count: int
) -> list[Side]:
    """What is confirmed: the best reference baseline first, then what is compared with it.

    count 1: the best proposed trial, and the best of all others if that is another baseline. From 2
    on: the `count` best proposed trials, and every other family of baselines. Empty where count is 0,
    and where no trial of the reference, or no other one, completed.
    """
    order = rank_trials(records, objectives)
    reference = [record for record in order if record.baseline in space.reference]
    others = [record for record in order if record.baseline not in space.reference]
    if count == 0 or not reference or not others:
        return []
    family_of = {name: family for family, names in space.families.items() for name in names}
    alone = {names[0] for names in space.families.values() if len(names) == 1}

    if count == 1:
        proposed = [record for record in others if record.baseline is None]
        best = others[:1] + [record for record in proposed[:1] if record is not others[0]]
        return [Side(title(record), record) for record in (reference[0], *best)]
    found, seen = [], set()
    for record in (*reference, *others):
        family = family_of.get(record.baseline or "")
        if family is not None and family not in seen:
            seen.add(family)
            untuned = record.baseline in alone
            found.append(Side(title(record), record, untuned, family=family))
    proposed = [record for record in others if record.baseline is None]
    return [*found, *(Side(title(record), record) for record in proposed[:count])]


@dataclass(frozen=True)
class Pair:
    """Two sides that differ in the question's factor only."""

    without: Side
    including: Side


def pairs(chosen: Sequence[Side], question: Question | None) -> list[Pair]:
    """The pairs that answer the question of the space, most important first.

    Families that the question names, where both are chosen. Of the others: the reference, proposed trials,
    and, where no family has to be represented, other baselines; with a side that is chosen anyway, if its
    configuration is the same, else with the switched one.
    """
    if question is None:
        return []
    by_family = {side.family: side for side in chosen if side.family}
    found = [
        Pair(by_family[without], by_family[including])
        for without, including in question.families.items()
        if without in by_family and including in by_family
    ]
    known = {id(side) for pair in found for side in (pair.without, pair.including)}
    every_family = any(side.family for side in chosen)
    for place, side in enumerate(chosen):
        baseline = side.candidate.baseline is not None
        if id(side) in known or (baseline and place > 0 and every_family):
            continue
        config = side.candidate.config
        other = question.counterpart(config)
        if other is None:
            continue
        has = question.has(config)
        same = next(
            (s for s in chosen if not s.untuned and _task(s.candidate.config) == _task(other)), None
        )
        word = "without" if has else "with"
        partner = same or replace(
            side, name=f"{side.name} {word} {question.factor}", switched=True, family=""
        )
        known |= {id(side), id(partner)}
        found.append(Pair(partner, side) if has else Pair(side, partner))
    return found


def _task(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what every run of the confirmation has of its own."""
    return {name: value for name, value in config.items() if name != "seed"}


def trained(chosen: Sequence[Side], question: Question | None) -> list[Side]:
    """All sides to train: the chosen ones, then those that their pairs need."""
    partners = [side for pair in pairs(chosen, question) for side in (pair.without, pair.including)]
    return [*chosen, *(side for side in partners if side.switched)]


def planned_runs(space: Space, count: int, seeds: int, question: Question | None = None) -> int:
    """How many runs a confirmation of a new search makes at most. question: None where it is not asked."""
    if count == 0 or seeds == 0:
        return 0
    if count == 1:
        return (3 if question is None else 6) * seeds
    untuned = sum(len(names) == 1 for names in space.families.values())
    alone = 0 if question is None else count + (not question.families)
    return len(FACTORS) * untuned + (len(space.families) + count + alone) * seeds


def title(record: TrialRecord) -> str:
    """`trial 7`, of a baseline with its name."""
    return f"trial {record.number}" + (f" ({record.baseline})" if record.baseline else "")


def entries(
    chosen: Sequence[Side],
    confirmed: Iterable[TrialRecord],
    objectives: Objectives,
    search_seed: int,
    count: int,
) -> list[Entry]:
    """All runs that can be named so far: tuning, then `count` seeds of each side, seed by seed.

    confirmed: the runs so far. A side has no further runs until its tuning has ended; called again
    after that, this names them too. Runs to be paired are next to each other.
    """
    if count == 0:
        return []
    records, seed = list(confirmed), tuning_seed(search_seed)
    own = [side for side in chosen if not side.switched]
    tuning = [Entry(side.candidate.number, seed, f) for side in own for f in _factors(side)]
    ended = {_entry_of(r) for r in records if r.status not in ("running", "paused")}
    ready = [
        s for s in chosen if all(Entry(s.candidate.number, seed, f) in ended for f in _factors(s))
    ]
    fresh = [
        Entry(
            side.candidate.number,
            one,
            factor(side, records, objectives, search_seed),
            side.switched,
            side.name.removeprefix(title(side.candidate)),
        )
        for one in fresh_seeds(search_seed, count)
        for side in ready
    ]
    return [*tuning, *fresh]


def fresh_seeds(search_seed: int, count: int) -> list[int]:
    """Seeds that the search never used; a longer list begins with the shorter one."""
    return [fold(search_seed, "confirm", index) % SEED_LIMIT for index in range(count)]


def tuning_seed(search_seed: int) -> int:
    """The one seed on which baselines are tuned, and nothing is confirmed."""
    return fold(search_seed, "confirm", "tuning") % SEED_LIMIT


def factor(
    side: Side, confirmed: Iterable[TrialRecord], objectives: Objectives, search_seed: int
) -> float | None:
    """The multiple of its learning rate that a side is confirmed at; None for its own."""
    seed = tuning_seed(search_seed)
    of_side = (r for r in confirmed if _entry_of(r).candidate == side.candidate.number)
    order = rank_trials((r for r in of_side if _entry_of(r).seed == seed), objectives)
    best = _entry_of(order[0]).factor if side.untuned and order else None
    return None if best == 1.0 else best


def runs_of(
    side: Side, confirmed: Sequence[TrialRecord], objectives: Objectives, search_seed: int
) -> list[TrialRecord]:
    """The runs of a side on fresh seeds, at the learning rate that its tuning chose."""
    chosen = factor(side, confirmed, objectives, search_seed)
    return [
        record
        for record in confirmed
        if (entry := _entry_of(record)).candidate == side.candidate.number
        and entry.switched == side.switched
        and entry.seed != tuning_seed(search_seed)
        and entry.factor == chosen
    ]


def suggester(
    records: Sequence[TrialRecord],
    wanted: Iterable[Entry],
    search_seed: int,
    question: Question | None = None,
) -> Callable[[AnyTrial], dict[str, Any]]:
    """`suggest` of the confirming study: a trial's configuration on another seed, one rung.

    The trial is of an entry, whose name it has as a baseline's.
    """
    configs = {record.number: record.config for record in records}
    entry_of = {entry.name: entry for entry in wanted}

    def suggest(trial: AnyTrial) -> dict[str, Any]:
        entry = entry_of[trial.user_attrs[BASELINE]]
        candidate = trial.suggest_int("candidate", 0, SEED_LIMIT)
        seed = trial.suggest_int("seed", 0, SEED_LIMIT)
        config: dict[str, Any] | None = dict(configs[candidate])
        if entry.switched:
            trial.suggest_int(SWITCHED, 1, 1)
            assert question is not None
            config = question.counterpart(configs[candidate])
        assert config is not None
        if entry.factor is not None:
            rate = config["optimizer"]["learning_rate"] * trial.suggest_float(FACTOR, 0.1, 10.0)
            config["optimizer"] = config["optimizer"] | {"learning_rate": rate}
        purpose = "tuning latents" if seed == tuning_seed(search_seed) else "latents"
        latent_seed = fold(search_seed, "confirm", purpose) % SEED_LIMIT
        config["seed"] = seed
        config["budget"] = config["budget"] | {"rungs": [1.0]}
        config["evaluation"] = config["evaluation"] | {"latent_seed": latent_seed}
        return config

    return suggest


def study_name(request: SearchRequest) -> str:
    """The sibling study of a search that holds its confirmation."""
    return f"{request.study}/confirm"


def question_of(plan: Plan) -> Question | None:
    """The question that the confirmation answers by pairs; None without one, or where it is not asked."""
    return plan.space.question if plan.request.question else None


def make_ledger(
    plan: Plan,
    storage: Storage,
    records: Sequence[TrialRecord],
    confirmed: Sequence[TrialRecord],
    fence: Callable[[], None],
    epoch: int,
) -> tuple[Ledger, int] | None:
    """The confirming study with all runs that can be named so far, and their total number, including
    those of earlier requests; None where nothing is to be confirmed.

    storage: Optuna's; records: of the search; confirmed: of the confirming study so far.
    """
    request, objectives = plan.request, plan.objectives
    question = question_of(plan)
    chosen = trained(sides(records, plan.space, objectives, request.confirm), question)
    wanted = entries(chosen, confirmed, objectives, request.seed, request.confirm_seeds)
    if not wanted:
        return None
    total = len({record.baseline for record in confirmed} | {entry.name for entry in wanted})
    ledger = Ledger(
        storage=storage,
        study_name=study_name(request),
        suggest=suggester(records, wanted, request.seed, question),
        baselines={entry.name: entry.params for entry in wanted},
        objectives=objectives,
        rungs=None,
        sampler="random",
        seed=request.seed,
        total=total,
        folder=request.folder / "confirm",
        fence=fence,
        epoch=epoch,
        startup_trials=request.startup_trials,
        repeats=0,
        max_failures=request.max_failures,
        terms=0,
    )
    return ledger, total


def label(
    side: Side, confirmed: Sequence[TrialRecord], objectives: Objectives, search_seed: int
) -> str:
    """The side's name, with the multiple of its learning rate that its tuning chose."""
    rate = factor(side, confirmed, objectives, search_seed)
    return side.name if rate is None else f"{side.name} at {rate:.3g} x its learning rate"


def table(
    chosen: Sequence[Side],
    confirmed: Sequence[TrialRecord],
    objectives: Objectives,
    search_seed: int,
) -> list[Row]:
    """The rows of fresh seeds; empty until the best reference baseline and another side share one."""
    named = {
        label(side, confirmed, objectives, search_seed): runs_of(
            side, confirmed, objectives, search_seed
        )
        for side in chosen
    }
    rows = final_table(named, objectives)
    return rows if any(row.against for row in rows) else []


def _factors(side: Side) -> tuple[float, ...]:
    """The multiples of its learning rate at which a side is tuned; none where it needs no tuning."""
    if not side.untuned:
        return ()
    rate = float(side.candidate.config["optimizer"]["learning_rate"])
    return tuple(factor for factor in FACTORS if rate * factor <= HIGHEST_RATE)


def _entry_of(record: TrialRecord) -> Entry:
    given = record.params
    switched = SWITCHED in given
    return Entry(int(given["candidate"]), int(given["seed"]), given.get(FACTOR), switched)
