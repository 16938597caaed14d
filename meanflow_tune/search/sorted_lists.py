"""Lists that `bisect.insort` keeps sorted."""

import bisect
from typing import Any


def discard(ascending: list[Any], item: Any) -> bool:
    """Remove an item from a sorted list; False where it is not there."""
    place = bisect.bisect_left(ascending, item)
    if place == len(ascending) or ascending[place] != item:
        return False
    del ascending[place]
    return True
