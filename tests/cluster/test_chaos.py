"""The random walk of faults: what a seed decides. The walk itself takes half an hour, by hand."""

from collections import Counter

import pytest

from tests.cluster import chaos


def test_a_seed_decides_the_walk() -> None:
    assert chaos.walk(7, 30) == chaos.walk(7, 30)
    assert chaos.walk(7, 30)[:10] == chaos.walk(7, 10)
    assert chaos.walk(7, 30) != chaos.walk(8, 30)


def test_every_fault_comes() -> None:
    counts = Counter(step.kind for seed in range(20) for step in chaos.walk(seed, 30))
    assert set(counts) == set(chaos.FAULTS)
    assert min(counts.values()) >= 20  # once per walk on average


def test_a_choice_picks_every_candidate() -> None:
    picked = {chaos.Step("rank", 0.0, share).pick("abc") for share in (0.0, 0.4, 0.999)}
    assert picked == set("abc")


def test_the_table_has_every_fault_with_a_goal() -> None:
    from tests.support.hosts.measured import GOALS

    names = {chaos.FAULTS[step.kind][1] for step in chaos.one_after_another(2, False)}
    assert names == set(GOALS)
    kinds = [step.kind for step in chaos.one_after_another(2, True)]
    assert kinds == ["power", "power", "link", "link"]


def test_without_root_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(SystemExit) as end:
        chaos.main(["--faults", "1"])
    assert end.value.code == 2
    assert "needs root to make hosts of namespaces" in capsys.readouterr().err
