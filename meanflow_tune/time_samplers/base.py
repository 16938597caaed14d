"""Bases of the distributions of (t, s) and of a single time, as pure functions of uniform draws.

Noise is at time 0 and data at time 1; the papers' time is 1 minus ours. A distribution is drawn by
inversion in float64, so that each member is a quantile and a distribution function, and a pair is a
function of its row of uniform numbers alone: neither the other rows nor their order matter.
"""

from abc import abstractmethod
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema
from torch import Generator, Tensor

from meanflow_tune.core.types import TimePair
from meanflow_tune.settings import Member, OneOf, Settings

# Uniform numbers per row: 0 and 1 the pair, 2 which end is the diagonal's, 3 its own time.
DRAWS = 4
# Torch's vector instructions and its scalar code for what is left over may differ in the last bit. Beyond
# 16,384 rows torch may divide them among threads, anywhere.
_WHOLE_VECTORS = 64


class Distribution(Settings):
    """A distribution of one time in [0, 1], drawn by inversion."""

    @abstractmethod
    def quantile(self, q: Tensor) -> Tensor:
        """The time in [0, 1] below which a draw falls with probability q in [0, 1]; float64, any shape."""

    @abstractmethod
    def cdf(self, x: Tensor) -> Tensor:
        """P(time <= x) for x in [0, 1]: float64 of any shape."""

    def atoms(self) -> tuple[Tensor, Tensor] | None:
        """The times of a discrete distribution, ascending, and their probabilities; None if continuous."""
        return None


class SingleTime(Distribution, Member):
    """Base of the family: a distribution of one time."""

    # A distribution may contain another one: schemas wait until all members are imported.
    model_config = ConfigDict(defer_build=True)


class _Members:
    """`OneOf` all members of SingleTime, found when a schema is first needed."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return OneOf(SingleTime.members()).__get_pydantic_core_schema__(source, handler)


AnySingleTime = Annotated[SingleTime, _Members()]


class TimeSamplerSettings(Member):
    """Base of the family: a distribution of pairs 0 <= t <= s <= 1.

    diagonal_share: the share of a batch with t = s, where a loss is flow matching.
    diagonal_at: the time of these rows. "start" is the pair's t, as in the published MeanFlow codes,
    which set r = t at the later noise time max(t, r); "end" is its s; "random" either with equal
    chances; "own" a draw from `diagonal`, as in α-Flow, SoFlow and terminal velocity matching.
    """

    model_config = ConfigDict(defer_build=True)

    diagonal_share: float = Field(0.25, ge=0.0, le=1.0)
    diagonal_at: Literal["start", "end", "random", "own"] = "start"
    diagonal: AnySingleTime | None = None

    @model_validator(mode="after")
    def _check_diagonal(self) -> Self:
        if self.diagonal_at == "own" and self.diagonal is None:
            raise ValueError(
                "diagonal_at 'own' needs a distribution, but diagonal is null; give one, such as "
                "{'kind': 'logit_normal'}, or set diagonal_at to 'start'."
            )
        if self.diagonal_at != "own" and self.diagonal is not None:
            raise ValueError(
                f"diagonal belongs to diagonal_at 'own', but got diagonal {self.diagonal.kind!r} with "
                f"diagonal_at {self.diagonal_at!r}; set diagonal_at to 'own', or diagonal to null."
            )
        return self

    def diagonal_count(self, total: int) -> int:
        """How many rows of a global batch of `total` have t = s: diagonal_share · total, rounded half up."""
        return int(self.diagonal_share * total + 0.5)

    def diagonal_rows(self, rows: Tensor, total: int) -> Tensor:
        """Which of `rows` of a global batch of `total` have t = s: int64 [n] -> bool [n].

        They are the first `diagonal_count` ones. Nothing else about a row (its
        sample, noise, label, pair) depends on its index, so that rows are exchangeable: only the
        number of rows on the diagonal matters, not which ones they are.
        """
        return rows < self.diagonal_count(total)

    def pairs(self, uniform: Tensor, diagonal: Tensor) -> TimePair:
        """Pairs from uniform draws, float64 [n, DRAWS] in [0, 1); bool [n] tells where t = s.

        Returns float32 [n] on the device of `uniform`. A row of the result is a function of the same
        row of the arguments, to the last bit on one device.
        """
        n = len(uniform)
        if uniform.shape != (n, DRAWS) or diagonal.shape != (n,):
            raise ValueError(
                f"pairs() needs [n, {DRAWS}] uniform numbers and [n] flags, but got "
                f"{list(uniform.shape)} and {list(diagonal.shape)}."
            )
        draws = torch.nn.functional.pad(uniform, (0, 0, 0, -n % _WHOLE_VECTORS), value=0.5)
        t, s = self._pairs(draws[:, :2])
        same = self._diagonal_times(t, s, draws)[:n]
        t, s = torch.where(diagonal, same, t[:n]), torch.where(diagonal, same, s[:n])
        return TimePair(t.float(), s.float())

    def sample(self, n: int, generator: Generator, device: torch.device | str = "cpu") -> TimePair:
        """n pairs as a batch of their own, float32 [n] on `device`; all draws come from `generator`.

        Those with t = s come first. Raises ValueError for n < 0.
        """
        if n < 0:
            raise ValueError(f"`n >= 0` must hold, but got ({n=}).")
        where = generator.device
        uniform = torch.rand(n, DRAWS, generator=generator, dtype=torch.float64, device=where)
        pairs = self.pairs(uniform, self.diagonal_rows(torch.arange(n, device=where), n))
        return TimePair(pairs.t.to(device), pairs.s.to(device))

    @abstractmethod
    def marginal_cdf(self, which: Literal["t", "s"], x: Tensor) -> Tensor:
        """P(t <= x) or P(s <= x) off the diagonal, for x in [0, 1]: float64 of any shape."""

    @abstractmethod
    def _pairs(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (t, s) off the diagonal from uniform draws [n, 2]: float64 [n] each, row by row."""

    def _diagonal_times(self, t: Tensor, s: Tensor, uniform: Tensor) -> Tensor:
        """The time of each row, were it on the diagonal; uniform: [n, DRAWS]."""
        if self.diagonal_at == "start":
            return t
        if self.diagonal_at == "end":
            return s
        if self.diagonal_at == "random":
            return torch.where(uniform[:, 2] < 0.5, t, s)
        assert self.diagonal is not None
        return self.diagonal.quantile(uniform[:, 3])


class SortedPairs(TimeSamplerSettings, Distribution):
    """Two independent draws of one distribution: t is the smaller, s the larger."""

    def marginal_cdf(self, which: Literal["t", "s"], x: Tensor) -> Tensor:
        single = self.cdf(x)
        return single.square() if which == "s" else 1.0 - (1.0 - single).square()

    def _pairs(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        draws = self.quantile(uniform)
        return draws.amin(dim=1), draws.amax(dim=1)
