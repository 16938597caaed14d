"""The results of trials at one rung, kept in order, so that a decision does not read them all."""

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from meanflow_tune.search.objectives import Direction
from meanflow_tune.search.pareto import places
from meanflow_tune.search.sorted_lists import discard

Values = tuple[float, ...]


@dataclass(frozen=True)
class RungResult:
    """A trial at a rung: its number, and its objectives at its rungs up to this one."""

    number: int
    history: tuple[Values, ...]

    @property
    def values(self) -> Values:
        return self.history[-1]

    @property
    def mean(self) -> float:
        """Of the first objective over the rungs."""
        return math.fsum(values[0] for values in self.history) / len(self.history)


class Standings:
    """One result per trial. One objective is kept sorted; several are ranked by fronts when asked for.

    Ranking by fronts reads all results, once after each change.
    """

    def __init__(self, directions: Sequence[Direction], results: Iterable[RungResult] = ()) -> None:
        self._directions = directions
        self._sign = 1.0 if directions[0] == "minimize" else -1.0
        self._results: dict[int, RungResult] = {}
        self._order: list[tuple[float, int]] = []  # of one objective, the best first
        self._means: list[tuple[float, int]] = []
        self._ranked: dict[int, int] | None = None
        for result in results:
            self.put(result)

    def __contains__(self, number: int) -> bool:
        return number in self._results

    def __len__(self) -> int:
        return len(self._results)

    def put(self, result: RungResult) -> None:
        """Add a trial's result, in the place of an earlier one."""
        if self._results.get(result.number) == result:
            return
        self.remove(result.number)
        self._results[result.number] = result
        self._ranked = None
        if len(self._directions) == 1:
            bisect.insort(self._order, self._key(result))
            bisect.insort(self._means, (result.mean, result.number))

    def remove(self, number: int) -> None:
        """Remove a trial's result, if there is one."""
        result = self._results.pop(number, None)
        if result is None:
            return
        self._ranked = None
        if len(self._directions) == 1:
            discard(self._order, self._key(result))
            discard(self._means, (result.mean, number))

    def place(self, own: RungResult) -> tuple[int, int]:
        """How many of the other trials are better than `own`, and the number of all with it.

        own: as it would be put, whether or not it has been. With one objective equal values share a place.
        """
        count = len(self) + (own.number not in self._results)
        if len(self._directions) > 1:
            if self._results.get(own.number) == own:
                return self._all_places()[own.number], count
            others = [r for n, r in sorted(self._results.items()) if n != own.number]
            return places([r.values for r in (*others, own)], self._directions)[-1], count
        value = self._sign * own.values[0]
        better = bisect.bisect_left(self._order, (value,))
        known = self._results.get(own.number)
        return better - (known is not None and self._key(known)[0] < value), count

    def median_mean(self, without: int) -> tuple[float | None, int]:
        """The median of the means of the trials but one, and their number; None where there are none."""
        known = self._results.get(without)
        skipped = len(self._means)
        if known is not None:
            skipped = bisect.bisect_left(self._means, (known.mean, without))
        count = len(self._means) - (known is not None)
        if not count:
            return None, 0
        low, high = (
            self._means[place + (place >= skipped)][0] for place in ((count - 1) // 2, count // 2)
        )
        return (low if low == high else (low + high) / 2), count

    def best(self, waiting: Sequence[tuple[float, int]]) -> tuple[int, int] | None:
        """Of trials that have a result, sorted by `order_key`: the number and place of the best one."""
        if not waiting:
            return None
        if len(self._directions) > 1:
            ranked = self._all_places()
            place, number = min((ranked[number], number) for _, number in waiting)
            return number, place
        number = waiting[0][1]
        return number, self.place(self._results[number])[0]

    def order_key(self, number: int) -> tuple[float, int]:
        """Sorts trials that have a result: the best first with one objective, else by number."""
        if len(self._directions) > 1:
            return 0.0, number
        return self._key(self._results[number])

    def _key(self, result: RungResult) -> tuple[float, int]:
        return self._sign * result.values[0], result.number

    def _all_places(self) -> dict[int, int]:
        if self._ranked is None:
            numbers = sorted(self._results)
            found = places([self._results[n].values for n in numbers], self._directions)
            self._ranked = dict(zip(numbers, found, strict=True))
        return self._ranked
