"""Seeds folded from their purpose."""

import torch

from meanflow_tune.core.random import fold, make_generator


def test_fold_is_frozen() -> None:
    # Golden: a change here changes every study's draws and must be deliberate.
    assert fold(0) == 6123453654292721103
    assert fold(1, "times", 4096, 3) == 5542805682380328402


def test_every_part_its_type_and_its_place_count() -> None:
    seeds = [
        fold(1),
        fold(2),
        fold(1, 2),
        fold(2, 1),
        fold(12),
        fold(1, "2"),
        fold(1, "a", "b"),
        fold(1, "ab"),
        fold(1, "a", "b", 0),
        fold(1, ""),
    ]
    assert len(set(seeds)) == len(seeds)
    many = [fold(0, "trial", number) for number in range(2000)]
    assert len(set(many)) == 2000
    assert all(0 <= seed < 2**63 for seed in many)
    assert max(many) > 2**62  # all 63 bits are in use


def test_generators_repeat_and_leave_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    draws = torch.randn(5, generator=make_generator(3, "path", 128))
    assert torch.equal(draws, torch.randn(5, generator=make_generator(3, "path", 128)))
    assert not torch.equal(draws, torch.randn(5, generator=make_generator(3, "path", 256)))
    assert torch.equal(before, torch.get_rng_state())
