"""From a configuration back to the parameters with which a space gives it: a space is code.

Parameters are determined in the order in which the space asks for them: of a choice every value is tried,
of a number the values in the configuration, and otherwise that for which one setting, a monotonic function
of it (such as a share of what another share leaves), becomes right. The guesses that make the most settings
right are kept. The caller compares the result; nothing is assumed to be expressible.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from meanflow_tune.search.errors import SpaceError
from meanflow_tune.search.space.draws import AnyTrial, Draw, EdgeTrial, draw

TOLERANCE = 1e-9  # relative, for numbers that a space computes
BISECTIONS = 60
SHAPES = (0.5, 0.31, 0.77)  # where in their range the numbers that are not determined yet are

KEPT = 8  # guesses, since a wrong value may make as many settings right as the right one

Flat = Mapping[str, Any]


def find_params(
    suggest: Callable[[AnyTrial], dict[str, Any]], wanted: Flat, ignored: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters whose configuration is as near to `wanted` as was found, and that configuration.

    suggest: returns a flattened configuration, as `wanted` is; ignored: paths that do not count. Raises
    SpaceError where the space refuses all.
    """
    search = _Search(suggest, {k: v for k, v in wanted.items() if k not in set(ignored)})
    kept = [search.guess({})]
    while True:
        best = min(kept, key=lambda guess: guess.score)
        if not best.score[0] or all(guess.undetermined is None for guess in kept):
            return dict(best.made.params), dict(best.made.config)
        found = [one for guess in kept for one in search.determine(guess)]
        kept = sorted(found, key=lambda guess: guess.score)[:KEPT]


def differences(made: Flat, wanted: Flat) -> list[str]:
    """Paths at which two configurations differ by more than rounding, those of `wanted` first."""
    paths = [*wanted, *(path for path in made if path not in wanted)]
    return [p for p in paths if not (p in made and p in wanted and same(made[p], wanted[p]))]


def same(a: Any, b: Any) -> bool:
    """Equal but for the rounding of numbers."""
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-15)
    return type(a) is type(b) and bool(a == b)


@dataclass(frozen=True)
class _Guess:
    """known: the parameters determined so far; made: what the space gives with them; score: lower is nearer,
    first settings that differ, then by how much.
    """

    known: dict[str, Any]
    made: Draw
    score: tuple[int, float]

    @property
    def undetermined(self) -> str | None:
        """The first parameter that is not determined."""
        return next((name for name in self.made.params if name not in self.known), None)


class _Search:
    def __init__(self, suggest: Callable[[AnyTrial], dict[str, Any]], wanted: Flat) -> None:
        self._suggest, self._wanted = suggest, wanted
        numbers = {float(x) for x in wanted.values() if _is_number(x)}
        self._numbers = sorted(numbers | {abs(x) for x in numbers})

    def guess(self, known: dict[str, Any]) -> _Guess:
        """The rest in the middle, or elsewhere where the space refuses that. Raises SpaceError."""
        made = self._draw(known)
        flat = made.config
        wrong = [path for path in differences(flat, self._wanted) if path in self._wanted]
        distance = math.fsum(_distance(flat.get(path), self._wanted[path]) for path in wrong)
        return _Guess(known, made, (len(wrong), distance))

    def determine(self, guess: _Guess) -> Iterator[_Guess]:
        """The guess with each value of its next parameter that may be right."""
        name = guess.undetermined
        if name is None:
            yield guess
            return
        distribution = guess.made.distributions[name]
        values = [*_candidates(distribution, self._numbers)]
        if isinstance(distribution, FloatDistribution) and distribution.step is None:
            values += self._solutions(name, distribution, guess.known)
        for value in dict.fromkeys(values):
            with suppress(SpaceError):
                yield self.guess({**guess.known, name: value})

    def _draw(self, known: Flat) -> Draw:
        error: SpaceError | None = None
        for shape in SHAPES:
            try:
                return draw(self._suggest, _Shaped(known, shape))
            except SpaceError as refusal:
                error = refusal
        assert error is not None
        raise error

    def _flat(self, known: Flat, name: str, value: float) -> dict[str, Any]:
        """The configuration; empty where the space refuses it."""
        try:
            return dict(self._draw({**known, name: value}).config)
        except SpaceError:
            return {}

    def _solutions(
        self, name: str, distribution: FloatDistribution, known: Flat
    ) -> Iterator[float]:
        """Values at which one of the settings that depend on the parameter is right."""
        # At the very ends a part of the configuration may be left out.
        inset = 1e-6 * (distribution.high - distribution.low)
        low = self._flat(known, name, distribution.low + inset)
        high = self._flat(known, name, distribution.high - inset)
        for path, target in self._wanted.items():
            first, last = low.get(path), high.get(path)
            if not (_is_number(first) and _is_number(last) and _is_number(target)):
                continue
            if first < target < last or last < target < first:
                yield self._bisect(name, distribution, known, path, first < last)

    def _bisect(
        self,
        name: str,
        distribution: FloatDistribution,
        known: Flat,
        path: str,
        rises: bool,
    ) -> float:
        low, high, target = distribution.low, distribution.high, self._wanted[path]
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            value = self._flat(known, name, middle).get(path)
            if not _is_number(value):
                value = 0.0  # a share of nothing is left out
            if (value < target) == rises:
                low = middle
            else:
                high = middle
        return (low + high) / 2


class _Shaped(EdgeTrial):
    """A trial with some parameters given, the numbers among the others at a share of their range."""

    def __init__(self, params: Mapping[str, Any], shape: float) -> None:
        super().__init__(random.Random(f"{shape}"), 0.0)
        self._params, self._shape = dict(params), shape

    def _draw(self, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[int(self._shape * len(distribution.choices))]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        value = distribution.low + (distribution.high - distribution.low) * self._shape
        if distribution.step is not None:
            steps = round((value - distribution.low) / distribution.step)
            value = distribution.low + steps * distribution.step
        return value


def _candidates(distribution: BaseDistribution, numbers: Iterable[float]) -> Iterator[Any]:
    if isinstance(distribution, CategoricalDistribution):
        yield from distribution.choices
        return
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    whole = isinstance(distribution, IntDistribution)
    for number in dict.fromkeys([distribution.low, distribution.high, *numbers]):
        if distribution.low <= number <= distribution.high:
            if not whole:
                yield float(number)
            elif float(number).is_integer():
                yield int(number)


def _distance(a: Any, b: Any) -> float:
    """From 0 for equal numbers to 1 for opposite ones and for all else that differs."""
    if _is_number(a) and _is_number(b) and a != b:
        return float(abs(a - b) / (abs(a) + abs(b)))
    return 1.0


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
