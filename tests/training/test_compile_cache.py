"""The cache of compiled code: private, node-local, bounded, and shared by processes."""

import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch._inductor.runtime import cache_dir_utils

from meanflow_tune.training import compile_cache
from meanflow_tune.training.compile_cache import (
    NAME,
    VARIABLE,
    YOUNG_SECONDS,
    shrink,
    use_compile_cache,
)
from meanflow_tune.training.run import Run
from meanflow_tune.training.world import World
from tests.support.tiny_run import tiny_config


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")  # restored, whatever a test sets
    monkeypatch.delenv(VARIABLE)


def test_torchs_own_choice_is_not_a_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    theirs = cache_dir_utils.default_cache_dir()
    monkeypatch.setenv(VARIABLE, theirs)
    assert use_compile_cache((tmp_path,)) == tmp_path / NAME


def test_the_folder_is_private_and_torch_is_told(tmp_path: Path) -> None:
    folder = use_compile_cache((tmp_path,))
    assert folder == tmp_path / NAME
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.environ[VARIABLE] == str(folder)
    assert use_compile_cache((tmp_path,)) == folder


def test_one_that_others_may_read_is_closed(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir(mode=0o755)
    assert stat.S_IMODE(use_compile_cache((tmp_path,)).stat().st_mode) == 0o700


def test_the_users_own_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/some/where")
    assert use_compile_cache((tmp_path,)) == Path("/some/where")
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("taken", ["link", "file", "owner"])
def test_what_another_user_may_have_put_there_is_never_read(
    taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    if taken == "link":
        (tmp_path / "theirs").mkdir()
        (first / NAME).symlink_to(tmp_path / "theirs")
    elif taken == "file":
        (first / NAME).write_text("")
    else:
        (first / NAME).mkdir()
        owner, real = (first / NAME).lstat(), Path.lstat
        other = os.stat_result((*owner[:4], os.getuid() + 1, *owner[5:]))
        monkeypatch.setattr(
            Path, "lstat", lambda path: other if path == first / NAME else real(path)
        )
    assert use_compile_cache((first, second)) == second / NAME
    alone = use_compile_cache_again(first, monkeypatch)
    assert alone.parent != first
    assert stat.S_IMODE(alone.stat().st_mode) == 0o700


def use_compile_cache_again(base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, "")
    return use_compile_cache((base,))


def test_what_was_not_used_for_long_goes_first(tmp_path: Path) -> None:
    now = time.time()
    for number in range(8):
        path = tmp_path / str(number) / "code.so"
        path.parent.mkdir()
        path.write_bytes(bytes(1000))
        age = (8 - number) * YOUNG_SECONDS
        os.utime(path, (now - age, now - age))
    shrink(tmp_path, 8000)
    assert len(list(tmp_path.rglob("*.so"))) == 8
    shrink(tmp_path, 7000)
    assert sorted(path.parent.name for path in tmp_path.rglob("*.so")) == ["5", "6", "7"]


def test_what_may_be_in_use_stays(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.so").write_bytes(bytes(1000))
    shrink(tmp_path, 10)
    assert len(list(tmp_path.iterdir())) == 4


TRAINS = """
import sys, torch
from pathlib import Path
from meanflow_tune.training.compile_cache import use_compile_cache
use_compile_cache((Path(sys.argv[1]),))
from meanflow_tune.core.jets import compiled
from torch._dynamo.utils import counters
torch.set_num_threads(1)
linear = torch.nn.Linear(2, 2)
model = lambda x, t, s: linear(x).tanh() * (s - t)[:, None]
x, t = torch.ones(4, 2), torch.zeros(4)
compiled().velocity_jet(model, x, t, t + 1, x)
found = counters["inductor"]
print("made", found["fxgraph_cache_miss"], "found", found["fxgraph_cache_hit"])
"""


@pytest.mark.slow
def test_a_process_takes_what_another_has_compiled(tmp_path: Path) -> None:
    """Also where parts of it were removed: they are compiled again."""

    def counted() -> tuple[int, int]:
        environment = {n: x for n, x in os.environ.items() if n != VARIABLE}
        done = subprocess.run(
            [sys.executable, "-c", TRAINS, str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        made, found = re.findall(r"\d+", done.stdout)
        return int(made), int(found)

    made, found = counted()
    assert (made > 0, found) == (True, 0)
    assert counted() == (0, made)
    for number, path in enumerate(sorted((tmp_path / NAME).rglob("*"))):
        if path.is_file() and number % 2:
            path.unlink()
    assert sum(counted()) == made


def test_only_a_run_that_is_compiled_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_cache, "NAME", f"{NAME}-tested")
    monkeypatch.setattr(compile_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    for setting in (False, "auto", True):
        config = tiny_config(compile=setting)
        Run.start(config, World(), config.data.load(), None)
        assert (tmp_path / f"{NAME}-tested").exists() == (setting is True)
