"""Seeds folded from their purpose, and draws of rows against known answers and distributions."""

import pytest
import torch
from torch import Tensor

from meanflow_tune.core.random import GOLDEN, SILVER, RowDraws, fold, make_generator, philox


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


# Known answers of Random123, the library of the generator's authors: counter, key, output.
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN)
def test_philox_gives_the_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], output: tuple[int, ...]
) -> None:
    as_tensors = [torch.tensor([word]) for word in counter]
    assert [int(word) for word in philox(as_tensors, key)] == list(output)
    as_arrays = [word.numpy() for word in as_tensors]
    assert [int(word[0]) for word in philox(as_arrays, key)] == list(output)


WORDS = {"times": 10, "noise": 6}


def drawn(rows: Tensor, seed: int = 5) -> list[Tensor]:
    draws = RowDraws(seed, rows, WORDS)
    return [draws.uniform("times"), draws.normal("noise", (3, 2, 1)), draws.spread("rows", GOLDEN)]


def test_a_row_does_not_depend_on_the_other_rows() -> None:
    whole = drawn(torch.arange(40))
    some = torch.tensor([39, 3, 3, 17])
    for all_rows, few in zip(whole, drawn(some), strict=True):
        assert torch.equal(all_rows[some], few)
    far = torch.tensor([2**33 + 1, 1])
    near, beyond = RowDraws(5, far, WORDS).uniform("times")
    assert not torch.equal(near, beyond), "rows beyond 32 bits do not repeat"


def test_a_purpose_does_not_depend_on_the_others() -> None:
    rows = torch.arange(20)
    alone = RowDraws(1, rows, {"times": 8}).uniform("times")
    beside = RowDraws(1, rows, {"data": 2, "noise": 64, "times": 8}).uniform("times")
    assert torch.equal(alone, beside)
    longer = RowDraws(1, rows, {"times": 16}).uniform("times")
    assert torch.equal(alone, longer[:, :4])


def test_seed_purpose_row_and_column_all_count() -> None:
    rows = torch.arange(500)
    each = [
        RowDraws(seed, rows, {purpose: 12}).uniform(purpose)
        for seed in (1, 2)
        for purpose in ("data", "times")
    ]
    flat = torch.cat([one.flatten() for one in each])
    assert len(flat.unique()) == len(flat)


def test_draws_have_their_distributions() -> None:
    from scipy.stats import kstest

    draws = RowDraws(7, torch.arange(20_000), {"times": 4, "noise": 6})
    uniform = draws.uniform("times")
    normal = draws.normal("noise", (2, 3)).reshape(-1, 6)
    for column in uniform.T:
        assert kstest(column.numpy(), "uniform").pvalue > 1e-3
    for column in normal.T:
        assert kstest(column.numpy(), "norm").pvalue > 1e-3
    off_diagonal = torch.corrcoef(torch.cat([uniform, normal.double()], dim=1).T) - torch.eye(8)
    assert off_diagonal.abs().max() < 0.03
    squares = torch.corrcoef(normal.double().square().T) - torch.eye(6)
    assert squares.abs().max() < 0.03, "both halves of a Box-Muller pair share no size"


@pytest.mark.parametrize("step", [GOLDEN, SILVER])
def test_spread_rows_are_even_at_every_share(step: float) -> None:
    rows = torch.arange(256)
    for seed in range(20):
        draws = RowDraws(seed, rows, {"any": 2}).spread("rows", step)
        for share in (0.1, 0.25, 0.5, 0.9):
            assert abs(int((draws < share).sum()) - share * 256) <= 4


def test_two_spread_sequences_do_not_decide_each_other() -> None:
    rows = torch.arange(1024)
    first, second = (
        RowDraws(3, rows, {"any": 2}).spread(purpose, step) < 0.5
        for purpose, step in (("a", GOLDEN), ("b", SILVER))
    )
    assert abs(int((first & second).sum()) - 256) <= 16
