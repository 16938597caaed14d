"""LossMix: several identities as one target; it costs no more than its dearest part."""

from typing import Self

import torch
from pydantic import model_validator
from torch import Tensor

from meanflow_tune.losses.backward import Backward
from meanflow_tune.losses.base import Ingredients, Loss, Ramp
from meanflow_tune.losses.flow_matching import FlowMatching
from meanflow_tune.losses.forward import Forward
from meanflow_tune.losses.second_order import SecondOrder
from meanflow_tune.losses.tri_consistency import TriConsistency
from meanflow_tune.settings import Settings

TOLERANCE = 1e-6
LARGEST_WEIGHT = 10.0


class LossMix(Settings):
    """The mixed target Σ w_i T_i, whose weights are shares times ramps, divided by their sum.

    Shares sum to 1. At every progress the weights must exist and stay within ±10, which is checked
    at construction.
    """

    backward: Backward | None = None
    forward: Forward | None = None
    second_order: SecondOrder | None = None
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
            known = ", ".join(type(self).model_fields)
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
        # Ramped shares are linear between these points, and so every weight is monotone there.
        ramps = [loss.ramp for loss in self.active.values()]
        edges = {edge for r in ramps for edge in (r.start, min(1.0, r.start + r.length))}
        for progress in sorted(edges):
            self._check_weights(progress)
        return self

    @property
    def active(self) -> dict[str, Loss]:
        """The losses that are set, by name, in the order of the fields."""
        losses = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: loss for name, loss in losses.items() if loss is not None}

    @property
    def needs(self) -> frozenset[str]:
        """Names of the Ingredients that the active losses need."""
        return frozenset().union(*(loss.needs for loss in self.active.values()))

    def weights(self, progress: float) -> dict[str, float]:
        """The weight of each active loss at `progress` in [0, 1]; they sum to 1."""
        ramped = self._ramped(progress)
        total = sum(ramped.values())
        return {name: part / total for name, part in ramped.items()}

    def combine(
        self, u: Tensor, inputs: Ingredients, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The residual u - Σ w_i T_i, and each loss' own u - T_i, detached; all [B, *D]."""
        weights = self.weights(progress)
        terms = {name: loss.residual(u.detach(), inputs) for name, loss in self.active.items()}
        # The weights sum to 1, so u - Σ w_i T_i = Σ w_i (u - T_i), with the gradient of u.
        value = torch.zeros_like(u)
        for name, term in terms.items():
            value = value + weights[name] * term
        return value + (u - u.detach()), terms

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
