"""LossMix: several identities as one target, ‖u - Σ w_i T_i‖², or as a sum, Σ w_i ‖u - T_i‖².

It costs no more than its most expensive term.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from meanflow_tune.losses.backward import Backward
from meanflow_tune.losses.base import Loss, Ramp
from meanflow_tune.losses.derivative import Exact, MixedDerivative
from meanflow_tune.losses.flow_matching import FlowMatching
from meanflow_tune.losses.forward import Forward
from meanflow_tune.losses.generalized import Generalized
from meanflow_tune.losses.identity import Coefficients, JetIdentity
from meanflow_tune.losses.second_order import SecondOrder
from meanflow_tune.losses.tri_consistency import TriConsistency
from meanflow_tune.settings import Settings

TOLERANCE = 1e-6
LARGEST_WEIGHT = 10.0


class LossMix(Settings):
    """Identities with weights w_i: shares times ramps, divided by their sum.

    form: "mixed_target" is ‖u - Σ w_i T_i‖²; "sum" is Σ w_i ‖u - T_i‖², which refuses negative
    shares, because they make it unbounded below. Behind a stop-gradient both have the same gradient
    under a squared error, and different ones under any other weighting.

    clamp: bound of the per-sample root mean square of the correction of each target that is
    regressed on: of the mixed one, or of each in a sum. The correction is T less its velocities:
    velocities of noise and data may rightly be large, while the correction is u - velocity on a true
    flow map and has a variance that grows like Δ⁴ on a wrong one. None is no bound.

    derivative: how D ∂_s u is computed, for second_order and generalized.

    Shares sum to 1. The weights must exist and stay within ±10 at every progress, which is checked
    at construction.
    """

    form: Literal["mixed_target", "sum"] = "mixed_target"
    clamp: Annotated[float, Field(gt=0.0)] | None = None
    derivative: MixedDerivative = Exact()
    # A new loss is one more field, of its name; their order is that in which residuals are summed.
    backward: Backward | None = None
    forward: Forward | None = None
    second_order: SecondOrder | None = None
    generalized: Generalized | None = None
    tri_consistency: TriConsistency | None = None
    flow_matching: FlowMatching | None = None

    @classmethod
    def mixture(
        cls,
        backward: float = 0.0,
        forward: float = 0.0,
        second_order: float = 0.0,
        tri_consistency: float = 0.0,
        second_order_ramp: float = 0.3,
    ) -> Self:
        """A LossMix from shares; a loss whose share is 0 is left out.

        second_order_ramp: the length of the second-order share's rise from 0, in progress. It needs
        another loss to start from, so it is left out where second order is alone.
        """
        accompanied = any((backward, forward, tri_consistency))
        ramp = Ramp(length=second_order_ramp if accompanied else 0.0)
        return cls(
            backward=Backward(share=backward) if backward else None,
            forward=Forward(share=forward) if forward else None,
            second_order=SecondOrder(share=second_order, ramp=ramp) if second_order else None,
            tri_consistency=TriConsistency(share=tri_consistency) if tri_consistency else None,
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        shares = {name: loss.share for name, loss in self.active.items()}
        if not shares:
            known = ", ".join(LOSSES)
            raise ValueError(f"at least one loss must be active; give a share to one of {known}.")
        total = sum(shares.values())
        if abs(total - 1.0) > TOLERANCE:
            remedy = f"divide each by {total:.6g}" if total > TOLERANCE else "raise a positive one"
            listed = ", ".join(f"{name}={share:.6g}" for name, share in shares.items())
            raise ValueError(f"shares ({listed}) must sum to 1, but sum to {total:.6g}; {remedy}.")
        if not any(loss.ramp.length == 0.0 and loss.share > 0.0 for loss in self.active.values()):
            raise ValueError(
                "a ramped loss needs another with a positive share and no ramp, or nothing is "
                f"trained at first; remove the ramp of one of {', '.join(shares)}."
            )
        if self.form == "sum" and min(shares.values()) < 0.0:
            listed = ", ".join(f"{name}={share:.6g}" for name, share in shares.items())
            raise ValueError(
                f"form 'sum' needs shares >= 0, but got ({listed}): a loss with a negative weight has "
                "no lower bound; take form 'mixed_target', or generalized with a negative beta."
            )
        self._check_second_order()
        # Ramped shares are linear between these points, and so every weight is monotone there.
        ramps = [loss.ramp for loss in self.active.values()]
        edges = {edge for r in ramps for edge in (r.start, min(1.0, r.start + r.length))}
        for progress in sorted(edges):
            self._check_weights(progress)
        return self

    @property
    def active(self) -> dict[str, Loss]:
        """The losses that are set, by name, in the order of the fields."""
        losses = {name: getattr(self, name) for name in LOSSES}
        return {name: loss for name, loss in losses.items() if loss is not None}

    @property
    def needs(self) -> frozenset[str]:
        """Names of the TargetInputs that the active losses need."""
        return frozenset().union(*(loss.needs for loss in self.active.values()))

    @property
    def looks_at_x_s(self) -> bool:
        """Whether a target depends on the setting x_source: on x_s, or on x_{s-ds} of tri-consistency."""
        return bool(self.needs & {"v_s", "ode_velocity"})

    @property
    def first_order_needs(self) -> frozenset[str]:
        """Names of the TargetInputs that the losses other than second_order need."""
        return frozenset().union(*(loss.needs for loss in self._first_order.values()))

    @property
    def fraction(self) -> float:
        """The share of the rows with t < s that get the second-order pass."""
        return 1.0 if self.second_order is None else self.second_order.fraction

    @property
    def live(self) -> frozenset[str]:
        """Names of the losses through whose targets gradients flow."""
        return frozenset(n for n, loss in self.active.items() if not loss.stop_gradient)

    @property
    def differences(self) -> bool:
        """Whether a step ds is needed: for tri-consistency or for finite differences."""
        return self.tri_consistency is not None or self.derivative.kind != "exact"

    def weights(self, progress: float, first_order_only: bool = False) -> dict[str, float]:
        """The weight of each active loss at `progress` in [0, 1]; they sum to 1.

        first_order_only: without second_order; the weights of the others then sum to 1.
        """
        ramped = self._ramped(progress)
        if first_order_only:
            ramped.pop("second_order", None)
        total = sum(ramped.values())
        return {name: part / total for name, part in ramped.items()}

    def direction(self, progress: float) -> Coefficients | None:
        """The coefficients of Σ w_i T_i over the losses other than second_order, where they suffice.

        D and ∂_s are linear, so that Σ w_i (a_i D u + b_i ∂_s u) is one derivative along one
        direction, at two components instead of four. None where more than that sum is needed: in a
        sum of losses, and where one of the two carries a gradient and the other does not.
        """
        jets = {n: loss for n, loss in self._first_order.items() if isinstance(loss, JetIdentity)}
        users = [loss for loss in jets.values() if loss.needs & _JET]
        one_kind = len({loss.stop_gradient for loss in users}) == 1
        if self.form == "sum" or not one_kind or not {"d_t", "d_s"} <= self.first_order_needs:
            return None
        weights = self.weights(progress, first_order_only=True)
        return Coefficients.mixed((weights[n], loss.coefficients) for n, loss in jets.items())

    @property
    def _first_order(self) -> dict[str, Loss]:
        """The active losses other than second_order."""
        return {name: loss for name, loss in self.active.items() if name != "second_order"}

    def _ramped(self, progress: float) -> dict[str, float]:
        return {n: loss.share * loss.ramp.weight(progress) for n, loss in self.active.items()}

    def _check_weights(self, progress: float) -> None:
        ramped = self._ramped(progress)
        total = sum(ramped.values())
        largest = max(abs(part) for part in ramped.values())
        if total <= 0.0 or largest > LARGEST_WEIGHT * total * (1.0 + TOLERANCE):
            listed = ", ".join(f"{name}={part:.6g}" for name, part in ramped.items())
            raise ValueError(
                f"at progress {progress:.6g} the ramped shares ({listed}) sum to {total:.6g}, "
                f"which makes weights beyond ±{LARGEST_WEIGHT:g}; shorten the ramps of positive "
                "shares, or lengthen those of negative ones."
            )

    def _check_second_order(self) -> None:
        if self.derivative.kind != "exact" and "d_t_d_s" not in self.needs:
            raise ValueError(
                f"derivative {self.derivative.kind!r} is of the mixed derivative, which no active "
                "loss uses; activate second_order or generalized, or set derivative to exact."
            )
        if self.fraction == 1.0:
            return
        if not any(loss.ramp.length == 0.0 for loss in self._first_order.values()):
            raise ValueError(
                f"second_order.fraction {self.fraction:g} leaves rows without a target, because no "
                "other loss without a ramp is active; add one, or set the fraction to 1."
            )
        if "d_t_d_s" in self.first_order_needs:
            raise ValueError(
                f"second_order.fraction {self.fraction:g} saves nothing next to generalized, which "
                "needs the second-order pass on every row; write it as backward and forward shares."
            )


_JET = frozenset({"d_s", "d_t"})

# The members of the family by name: the fields that hold a loss, in their order.
LOSSES: dict[str, type[Loss]] = {
    name: kind
    for name, field in LossMix.model_fields.items()
    for kind in get_args(field.annotation)
    if isinstance(kind, type) and issubclass(kind, Loss)
}
