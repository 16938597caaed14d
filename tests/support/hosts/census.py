"""`python census.py HEAD:PORT`: what a Ray cluster holds, as JSON; asks the head alone and joins nothing."""

import json
import sys
from typing import Any


def census(address: str) -> dict[str, Any]:
    """The living nodes, actors and placement groups, and the reserved resources."""
    from ray._private.state import GlobalState
    from ray._raylet import GcsClientOptions

    state = GlobalState()
    state._initialize_global_state(GcsClientOptions.create(address, None, True, False))
    try:
        nodes = {n["NodeID"]: n for n in state.node_table() if n["Alive"]}
        return {
            "nodes": sorted(n["NodeManagerAddress"] for n in nodes.values()),
            "actors": sorted(
                f"{a['ActorClassName']} {a['State']}"
                for a in state.actor_table(None).values()
                if a["State"] != "DEAD"
            ),
            "placement_groups": sorted(
                f"{p['state']} {p['bundles']}"
                for p in state.placement_group_table().values()
                if p["state"] != "REMOVED"
            ),
            "total": _processors(state.total_resources_per_node()),
            "free": _processors(state.available_resources_per_node()),
        }
    finally:
        state.disconnect()


def _processors(per_node: dict[str, dict[str, float]]) -> float:
    return sum(resources.get("CPU", 0.0) for resources in per_node.values())


if __name__ == "__main__":
    print(json.dumps(census(sys.argv[1])))
