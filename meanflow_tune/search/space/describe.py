"""What a search space asks for, and when: found by watching many draws, since a space is a program."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial

from meanflow_tune.search.errors import SpaceError

DRAWS = 400
EDGE_CHANCE = 0.5  # at which every second draw has a number at an end of its range
NOT_ASKED, LOW, INSIDE, HIGH = "(not asked)", "(low)", "(inside)", "(high)"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a space. asked: the share of draws that ask for it; condition: "" for always."""

    name: str
    distribution: BaseDistribution
    asked: float
    condition: str

    @property
    def domain(self) -> str:
        """The range or the choices, for a person."""
        return domain_text(self.distribution)


@dataclass(frozen=True)
class _Draw:
    """One call of suggest: what it asked for, in order, and what it was given."""

    params: dict[str, Any]
    distributions: dict[str, BaseDistribution]

    def class_of(self, name: str) -> Any:
        """A choice by itself, a number by whether it is at an end of its range."""
        if name not in self.params:
            return NOT_ASKED
        distribution, value = self.distributions[name], self.params[name]
        if isinstance(distribution, CategoricalDistribution):
            return value
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        return LOW if value == distribution.low else HIGH if value == distribution.high else INSIDE


def find_parameters(
    suggest: Callable[[Any], Any],
    baselines: Mapping[str, Mapping[str, Any]],
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Parameter]:
    """All parameters that `draws` random calls and the baselines ask for, in the order of asking.

    A combination with a number at the end of its range that the space refuses is left out.

    Raises SpaceError where suggest refuses every draw.
    """
    seen = []
    for params in baselines.values():
        fixed = FixedTrial(dict(params))
        suggest(fixed)
        seen.append(_Draw(dict(fixed.params), dict(fixed.distributions)))
    error: Exception | None = None
    for index in range(draws):
        trial = _Probe(random.Random(f"{seed}/{index}"), EDGE_CHANCE if index % 2 else 0.0)
        try:
            suggest(trial)
        except Exception as refusal:  # whatever code of a space may raise
            error = refusal
            continue
        seen.append(_Draw(trial.params, trial.distributions))
    if not seen:
        raise SpaceError(f"the space refuses every draw, for example: {error}") from error
    order = _in_order(draw.params for draw in seen)
    return [_describe(name, order, seen) for name in order]


def domain_text(distribution: BaseDistribution) -> str:
    """`1e-3 to 0.5, log`, `1 to 3, whole`, `uniform | beta`."""
    if isinstance(distribution, CategoricalDistribution):
        return " | ".join(str(choice) for choice in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    words = [f"{distribution.low:g} to {distribution.high:g}"]
    if isinstance(distribution, IntDistribution):
        words.append("whole" if distribution.step == 1 else f"whole, step {distribution.step}")
    elif distribution.step is not None:
        words.append(f"step {distribution.step:g}")
    return ", ".join([*words, "log"] if distribution.log else words)


class _Probe(FixedTrial):
    """A trial that draws what it is asked for, now and then at an end of the range."""

    def __init__(self, source: random.Random, edge_chance: float) -> None:
        super().__init__({})
        self._source, self._edge_chance = source, edge_chance

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            self._params[name] = self._draw(distribution)
        return super()._suggest(name, distribution)

    def _draw(self, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return self._source.choice(distribution.choices)
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        if self._source.random() < self._edge_chance:
            return self._source.choice((distribution.low, distribution.high))
        if distribution.log:
            value = (
                distribution.low * (distribution.high / distribution.low) ** self._source.random()
            )
        else:
            value = (
                distribution.low + (distribution.high - distribution.low) * self._source.random()
            )
        if isinstance(distribution, IntDistribution):
            steps = round((value - distribution.low) / distribution.step)
            return min(distribution.low + steps * distribution.step, distribution.high)
        if distribution.step is not None:
            value = (
                distribution.low
                + round((value - distribution.low) / distribution.step) * distribution.step
            )
        return min(max(value, distribution.low), distribution.high)


def _in_order(sequences: Iterable[Iterable[str]]) -> list[str]:
    """All names, each after what precedes it in the sequence where it is first met.

    It comes behind what is known of the same group, the part of a name before the first slash.
    """
    order: list[str] = []
    for sequence in sequences:
        names = list(sequence)
        position = 0
        for index, name in enumerate(names):
            if name in order:
                position = max(position, order.index(name) + 1)
                continue
            group = order[position - 1].partition("/")[0] if position else ""
            later = set(names[index:])
            while position < len(order) and order[position].partition("/")[0] == group:
                if order[position] in later:
                    break
                position += 1
            order.insert(position, name)
            position += 1
    return order


def _describe(name: str, order: Sequence[str], seen: Sequence[_Draw]) -> Parameter:
    asked = [name in draw.params for draw in seen]
    distribution = next(draw.distributions[name] for draw in seen if name in draw.params)
    share = sum(asked) / len(asked)
    return Parameter(
        name, distribution, share, "" if all(asked) else _condition(name, order, seen, asked)
    )


def _condition(
    name: str, order: Sequence[str], seen: Sequence[_Draw], asked: Sequence[bool]
) -> str:
    """`if a is x or y, and b is z`, `unless ...`, both, or how often where neither tells."""
    earlier = order[: order.index(name)]
    classes = {other: [draw.class_of(other) for draw in seen] for other in earlier}
    known = {other: _known_classes(other, seen) for other in earlier}
    rows = list(range(len(seen)))
    must = _necessary(classes, known, rows, asked)
    inside = [row for row in rows if _holds(must, classes, row)]
    texts = []
    if must:
        texts.append("if " + ", and ".join(_clause(n, v, known[n]) for n, v in must.items()))
    if not all(asked[row] for row in inside):
        not_asked = [not was for was in asked]
        but = _necessary(classes, known, inside, not_asked)
        if any(asked[row] and _holds(but, classes, row) for row in inside):
            share = 100 * sum(asked) / len(asked)
            return f"in {share:.0f} % of random draws, by several of the above"
        if not must and all(values == [NOT_ASKED] for values in but.values()):
            return "if " + ", or ".join(f"{n} is asked for" for n in but)
        texts.append("unless " + ", and ".join(_clause(n, v, known[n]) for n, v in but.items()))
    return ", ".join(texts)


def _known_classes(name: str, seen: Sequence[_Draw]) -> list[Any]:
    """What `class_of` gives where the parameter is asked for, in the order of the space."""
    distributions = [draw.distributions[name] for draw in seen if name in draw.params]
    if isinstance(distributions[0], CategoricalDistribution):
        return list(distributions[0].choices)
    return [LOW, INSIDE, HIGH]


def _holds(clauses: Mapping[str, Sequence[Any]], classes: Mapping[str, Any], row: int) -> bool:
    return all(classes[name][row] in inside for name, inside in clauses.items())


def _necessary(
    classes: Mapping[str, Sequence[Any]],
    known: Mapping[str, Sequence[Any]],
    rows: Sequence[int],
    target: Sequence[bool],
) -> dict[str, list[Any]]:
    """What holds in all rows of the target, in as few clauses as leave out as many of the others."""
    clauses: dict[str, list[Any]] = {}
    for name, values in classes.items():
        inside = list(dict.fromkeys(values[row] for row in rows if target[row]))
        if len(inside) < len({values[row] for row in rows}):
            clauses[name] = inside

    def says_little(name: str) -> int:
        """Left out first: that a number is asked for; then that a choice is; then early choices."""
        about_value = not _covers(clauses[name], known[name]) and NOT_ASKED not in clauses[name]
        return 2 if about_value else 1 if INSIDE not in known[name] else 0

    others = [row for row in rows if not target[row]]
    wrong = sum(_holds(clauses, classes, row) for row in others)
    for name in sorted(clauses, key=says_little):
        fewer = {other: inside for other, inside in clauses.items() if other != name}
        if sum(_holds(fewer, classes, row) for row in others) == wrong:
            clauses = fewer
    return clauses


def _clause(name: str, inside: Sequence[Any], known: Sequence[Any]) -> str:
    if NOT_ASKED in inside:
        rest = [value for value in known if value not in inside]
        if _covers(rest, known):
            return f"{name} is not asked for"
        return f"{name} is not {_listed(rest)}"
    if _covers(inside, known):
        return f"{name} is asked for"
    return f"{name} is {_listed([value for value in known if value in inside])}"


def _covers(inside: Sequence[Any], known: Sequence[Any]) -> bool:
    """Whether these are all classes; of a number the inside of its range counts for all of it."""
    return all(value in inside for value in known if value not in (LOW, HIGH))


def _listed(values: Sequence[Any]) -> str:
    words = {LOW: "at its low end", HIGH: "at its high end", INSIDE: "inside its range"}
    return " or ".join(words.get(value, str(value)) for value in values)
