"""Where a run's code comes from, as tags that MLflow's pages show."""

import contextlib
import getpass
import subprocess
from collections.abc import Callable
from pathlib import Path

SECONDS = 5.0


def source_tags(entry: str, root: Path | None = None) -> dict[str, str]:
    """entry: what was started, a script or a command; root: of the checkout, this package's own by default.

    Without git, or outside a repository, only what needs none.
    """
    root = Path(__file__).resolve().parents[2] if root is None else root
    tags = {"mlflow.source.name": entry, "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(KeyError, OSError):  # a container may not know its user
        tags["mlflow.user"] = getpass.getuser()
    # A repository further up, around an environment with this package, is another one.
    if not (root / ".git").exists():
        return tags
    git = _git(root)
    commit = git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        if git("status", "--porcelain", "--untracked-files=no"):
            tags["mlflow.source.git.dirty"] = "True"
    return tags


def _git(root: Path) -> Callable[..., str]:
    """A command's output; empty where it fails."""

    def run(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    return run
