"""The order of thousands of repeated trials, without comparing each with each."""

import math
import random

import pytest

from meanflow_tune.search.analysis import significance
from meanflow_tune.search.analysis.significance import _mean_difference, _Wins


def trials(count: int, seed: int) -> list[dict[str, float]]:
    """Scores on the own seed and up to two repeats, with ties and values that differ by rounding only."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        values = [draw.choice([0.1, 0.2, 0.3, 0.1 + 1e-16, draw.random()]) for _ in range(3)]
        names = draw.choice([("own",), ("own", "1"), ("own", "1", "2"), ("other",), ("own", "2")])
        found.append(dict(zip(names, values, strict=False)))
    return found


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("seed", range(4))
def test_wins_are_those_of_all_pairs(sign: float, seed: int) -> None:
    of = trials(120, seed)
    table = _Wins(of, sign)
    for k, mine in enumerate(of):
        others = (other for n, other in enumerate(of) if n != k)
        assert table.of(mine) == sum(_mean_difference(mine, other, sign) < 0 for other in others)


def test_comparisons_do_not_grow_with_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counted(*arguments: object) -> float:
        nonlocal calls
        calls += 1
        return _mean_difference(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(significance, "_mean_difference", counted)
    of = [{"own": math.sqrt(2 + k), "1": math.sqrt(3 + k)} for k in range(1000)]
    table = _Wins(of, 1.0)
    assert [table.of(one) for one in of] == list(range(999, -1, -1))
    assert calls == 1000  # each with itself
