"""`python replaced.py ARGUMENTS`: scripts/tune.py as if on another host, sharing the study's folder."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

if __name__ == "__main__":
    from meanflow_tune.cluster.connection.session import end_process
    from meanflow_tune.search.store import holder, lease

    holder.pid_namespace = lease.pid_namespace = lambda: "another boot of another host"
    sys.path.insert(0, str(ROOT / "scripts"))
    end_process(importlib.import_module("tune").main(sys.argv[1:]))
