import subprocess
from pathlib import Path

from meanflow_tune.tracking.source import source_tags


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@e", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_checkout_names_its_commit_and_whether_files_changed(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    tags = source_tags("scripts/tune.py", tmp_path)
    assert tags["mlflow.source.name"] == "scripts/tune.py"
    assert tags["mlflow.source.git.commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert "mlflow.source.git.dirty" not in tags
    (tmp_path / "a.py").write_text("2")
    assert source_tags("t", tmp_path)["mlflow.source.git.dirty"] == "True"


def test_an_environment_inside_another_repository_is_not_that_one(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    inside = tmp_path / "environment"
    inside.mkdir()
    assert "mlflow.source.git.commit" not in source_tags("t", inside)


def test_a_repository_that_git_refuses_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere")
    assert source_tags("t", tmp_path)["mlflow.source.type"] == "LOCAL"
    assert "mlflow.source.git.commit" not in source_tags("t", tmp_path)
