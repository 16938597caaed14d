"""The parameters of a search space and their conditions, found from many draws: a space is code."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.space.distributions import domain_text
from meanflow_tune.search.space.draws import Draw, EdgeTrial, Suggest, draw, draw_fixed

DRAWS = 400
EDGE_CHANCE = 0.5  # of every second draw to have a number at an end of its range
NOT_ASKED, LOW, INSIDE, HIGH = "(not asked)", "(low)", "(inside)", "(high)"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a space. asked: share of draws that ask for it; condition: "" for always."""

    name: str
    distribution: BaseDistribution
    asked: float
    condition: str

    @property
    def domain(self) -> str:
        """The range or the choices, in words."""
        return domain_text(self.distribution)


def find_parameters(
    suggest: Suggest,
    baselines: Mapping[str, Mapping[str, Any]],
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Parameter]:
    """All parameters that `draws` random draws and the baselines ask for, in the order of asking.

    Draws that the space refuses, such as some with a number at an end of its range, are left out.
    Raises SpaceError where it refuses a baseline or every draw.
    """
    found = [draw_fixed(suggest, params) for params in baselines.values()]
    error: SpaceError | None = None
    for index in range(draws):
        source = random.Random(f"{seed}/{index}")
        try:
            found.append(draw(suggest, EdgeTrial(source, EDGE_CHANCE if index % 2 else 0.0)))
        except SpaceError as refusal:
            error = refusal
    if not found:
        raise SpaceError(f"the space refuses every draw, for example: {error}") from error
    order = _in_order(one.params for one in found)
    return [_describe(name, order, found) for name in order]


def _class_of(name: str, drawn: Draw) -> Any:
    """Of a choice the choice, of a number whether it is at an end of its range."""
    if name not in drawn.params:
        return NOT_ASKED
    distribution, value = drawn.distributions[name], drawn.params[name]
    if isinstance(distribution, CategoricalDistribution):
        return value
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return LOW if value == distribution.low else HIGH if value == distribution.high else INSIDE


def _in_order(sequences: Iterable[Iterable[str]]) -> list[str]:
    """All names, each after its predecessors in the sequence where it appears first.

    It follows the known names of its group, which is the part of a name before the first slash.
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


def _describe(name: str, order: Sequence[str], seen: Sequence[Draw]) -> Parameter:
    asked = [name in drawn.params for drawn in seen]
    distribution = next(drawn.distributions[name] for drawn in seen if name in drawn.params)
    share = sum(asked) / len(asked)
    condition = "" if all(asked) else _condition(name, order, seen, asked)
    return Parameter(name, distribution, share, condition)


def _condition(name: str, order: Sequence[str], seen: Sequence[Draw], asked: Sequence[bool]) -> str:
    """`if a is x or y, and b is z`, `unless ...`, both, or else a share of the draws."""
    earlier = order[: order.index(name)]
    classes = {other: [_class_of(other, drawn) for drawn in seen] for other in earlier}
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


def _known_classes(name: str, seen: Sequence[Draw]) -> list[Any]:
    """The values of `_class_of` where the parameter is asked for, in the order of the space."""
    distributions = [drawn.distributions[name] for drawn in seen if name in drawn.params]
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
    """Conditions that hold in all rows of the target, as few as exclude the same other rows."""
    clauses: dict[str, list[Any]] = {}
    for name, values in classes.items():
        inside = list(dict.fromkeys(values[row] for row in rows if target[row]))
        if len(inside) < len({values[row] for row in rows}):
            clauses[name] = inside

    def importance(name: str) -> int:
        """Removed first: that a number is asked for; then that a choice is; then early choices."""
        about_value = not _covers(clauses[name], known[name]) and NOT_ASKED not in clauses[name]
        return 2 if about_value else 1 if INSIDE not in known[name] else 0

    others = [row for row in rows if not target[row]]
    wrong = sum(_holds(clauses, classes, row) for row in others)
    for name in sorted(clauses, key=importance):
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
    """Whether these are all classes; the inside of a number's range counts for all of it."""
    return all(value in inside for value in known if value not in (LOW, HIGH))


def _listed(values: Sequence[Any]) -> str:
    words = {LOW: "at its low end", HIGH: "at its high end", INSIDE: "inside its range"}
    return " or ".join(words.get(value, str(value)) for value in values)
