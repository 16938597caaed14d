"""The placement groups of a search: named after it, so that its next driver finds what was left."""

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from meanflow_tune.cluster.process_use import node_label

_PREFIX = "meanflow_tune"
_SEPARATOR = "/"


class Owner:
    """A driver of a study. folder: of the study; epoch: of the driver's lease, which grows.

    Ray itself frees what a dead driver holds. A suspended one, or one that its cluster still takes for
    alive, keeps the processors that its successor needs.
    """

    def __init__(self, folder: Path, epoch: int) -> None:
        study = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        self._study = _SEPARATOR.join((_PREFIX, study, ""))
        self._mine = f"{self._study}{epoch}{_SEPARATOR}"

    def reserve(self, slot: str, workers: int, resources: dict[str, float]) -> PlacementGroup:
        """Ask for the resources of a slot; they may come later."""
        return placement_group([dict(resources)] * workers, "PACK", name=f"{self._mine}{slot}")

    def await_placement(self, groups: Iterable[PlacementGroup], seconds: float) -> None:
        """Wait until all groups have their resources, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        for group in groups:
            group.wait(max(0.0, deadline - time.monotonic()))

    def free(self, group: PlacementGroup) -> None:
        """Give back the resources; processes that use them are ended. Idempotent."""
        remove_placement_group(group)

    def places(self) -> dict[str, tuple[bool, dict[str, str]]]:
        """By id of each group: whether all of it is placed, and its nodes, id -> host's name."""
        names = {node["NodeID"]: node_label(node) for node in ray.nodes()}
        return {
            key: (
                entry["state"] == "CREATED",
                {n: names.get(n, n) for n in entry["bundles_to_node_id"].values() if n},
            )
            for key, entry in placement_group_table().items()
            if entry["name"].startswith(self._mine) and entry["state"] != "REMOVED"
        }

    def free_leftovers(self) -> list[str]:
        """Free what earlier drivers of the study hold; returns their groups' names."""
        left = []
        for key, entry in placement_group_table().items():
            name, state = entry["name"], entry["state"]
            if (
                state != "REMOVED"
                and name.startswith(self._study)
                and name[: len(self._mine)] != self._mine
            ):
                self.free(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(key))))
                left.append(name)
        return left
