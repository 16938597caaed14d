"""Run in a process of its own: objects of a space's helpers, on workers that do not see its folder.

Arguments: the space's file, and the address of a cluster or "local".
"""

import sys
from pathlib import Path
from typing import Any

from meanflow_tune.cluster.connection.local_ray import start_local
from meanflow_tune.cluster.connection.session import join
from meanflow_tune.search.space.load import load_space


def main(file: Path, where: str) -> None:
    space = load_space(file)
    found = space.suggest.__wrapped__.__globals__["PARTS"]  # type: ignore[attr-defined]
    modules = dict(space.modules)
    session = start_local(1, modules=modules) if where == "local" else join(where, modules=modules)
    file.parent.rename(file.parent.with_name("gone"))
    import ray

    def use(part: Any) -> str:
        return f"{type(part).__module__} {part.value()}"

    with session:
        for line in ray.get([ray.remote(use).remote(part) for part in found]):
            print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
