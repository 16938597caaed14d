"""Removing from sorted lists: against a list that is sorted anew."""

import bisect
import random

from meanflow_tune.search.sorted_lists import discard


def test_what_is_there_is_removed_once_and_what_is_not_leaves_the_list() -> None:
    draw = random.Random(0)
    kept: list[int] = []
    for _ in range(500):
        item = draw.randrange(20)
        if draw.random() < 0.5:
            bisect.insort(kept, item)
            continue
        expected = sorted(kept)
        there = item in expected
        if there:
            expected.remove(item)
        assert discard(kept, item) == there
        assert kept == expected
