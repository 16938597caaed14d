"""Identities that are linear in the derivatives of u: one jet serves all of them and their mixtures."""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

from torch import Tensor

from meanflow_tune.core.types import expand_as
from meanflow_tune.losses.base import Loss, TargetInputs, TargetParts


@dataclass(frozen=True)
class Coefficients:
    """u = v_t·v(x_t, t) + v_s·v(x_s, s) + Δ (d_t·D u + d_s·∂_s u) + Δ² d_t_d_s·D ∂_s u."""

    v_t: float = 0.0
    v_s: float = 0.0
    d_t: float = 0.0
    d_s: float = 0.0
    d_t_d_s: float = 0.0

    @property
    def needs(self) -> frozenset[str]:
        """The target inputs with a coefficient other than 0, without v_t."""
        names = [field.name for field in fields(self)]
        return frozenset(name for name in names if getattr(self, name) != 0.0) - {"v_t"}

    @staticmethod
    def mixed(terms: Iterable[tuple[float, "Coefficients"]]) -> "Coefficients":
        """Σ weight · coefficients: the identity that a mixed target is."""
        rows = [[weight * value for value in astuple(each)] for weight, each in terms]
        return Coefficients(*(sum(column) for column in zip(*rows, strict=True)))


class JetIdentity(Loss):
    """A loss given by its coefficients of the jet (u, ∂_s u, D u, D ∂_s u) and the velocities."""

    @property
    @abstractmethod
    def coefficients(self) -> Coefficients:
        """The identity; coefficients of velocities sum to 1."""

    @property
    def needs(self) -> frozenset[str]:
        return self.coefficients.needs

    def _parts(self, inputs: TargetInputs) -> TargetParts:
        c, gap = self.coefficients, expand_as(inputs.path.gap, inputs.u)
        velocity = _sum(inputs, v_t=c.v_t, v_s=c.v_s)
        assert velocity is not None
        if inputs.directional_derivative is not None:  # the mixture adds it as a whole
            return TargetParts(velocity)
        first = _sum(inputs, d_t=c.d_t, d_s=c.d_s)
        second = None
        if c.d_t_d_s != 0.0:
            second = c.d_t_d_s * gap.square() * inputs.given("d_t_d_s")
        return TargetParts(velocity, None if first is None else gap * first, second)


def _sum(inputs: TargetInputs, **coefficients: float) -> Tensor | None:
    """Σ coefficient · input, None where all coefficients are 0."""
    total = None
    for name, coefficient in coefficients.items():
        if coefficient != 0.0:
            term = inputs.given(name)
            term = term if coefficient == 1.0 else coefficient * term
            total = term if total is None else total + term
    return total
