"""A mixture applied to a batch: the residuals u - Σ w_i T_i or u - T_i, and terms for logging."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from meanflow_tune.core.residuals import (
    bound_factor,
    limited,
    mean_cosine,
    per_sample_mean_square,
)
from meanflow_tune.core.types import expand_as
from meanflow_tune.losses.base import TargetInputs, TargetParts, assemble
from meanflow_tune.losses.mix import LossMix

MIXED = "mixed"


@dataclass(frozen=True)
class Combined:
    """residuals: to be squared, each [B, *D], with the gradients of the mixture; weights: theirs,
    which sum to 1; terms: detached scalars, for logging only.
    """

    residuals: dict[str, Tensor]
    weights: dict[str, float]
    terms: dict[str, Tensor]


def combine(
    mix: LossMix, u: Tensor, inputs: TargetInputs, progress: float, first_order_only: bool = False
) -> Combined:
    """The mixture at `progress` for u [B, *D]: one residual u - Σ w_i T_i, or each u - T_i.

    first_order_only: without second_order, for rows without a second-order pass. The terms are
    `residual/NAME`, the mean square of u - T_i; `correction/NAME`, the root mean square of T_i's
    correction over that of u; `correction/cosine` between the sums, weighted by the shares, of the
    first- and of the second-order corrections; `correction/clamped`, the share of clamped samples.
    """
    weights = mix.weights(progress, first_order_only)
    parts = {name: mix.active[name].parts(inputs) for name in weights}
    fixed = u.detach()
    with_gradient = u - fixed
    if mix.form == "sum":
        clamped = parts if mix.clamp is None else _limited(parts, mix.clamp)
        each = {name: fixed - assemble(part, inputs) for name, part in clamped.items()}
        residuals = {name: residual + with_gradient for name, residual in each.items()}
        result = Combined(residuals, weights, {})
        corrections = [part.correction for part in parts.values()]
    else:
        each = {name: fixed - assemble(part, inputs) for name, part in parts.items()}
        # The weights sum to 1, so u - Σ w_i T_i = Σ w_i (u - T_i), with the gradient of u.
        value = torch.zeros_like(u)
        for name, residual in each.items():
            value = value + weights[name] * residual
        corrections = [_mixed_correction(parts, weights, inputs)]
        if inputs.directional_derivative is not None:
            value = value - expand_as(inputs.path.gap, u) * inputs.directional_derivative
        if mix.clamp is not None and corrections[0] is not None:
            excess = 1.0 - expand_as(bound_factor(corrections[0], mix.clamp), u)
            value = value + excess * corrections[0]
        result = Combined({MIXED: value + with_gradient}, {MIXED: 1.0}, {})
    with torch.no_grad():
        if inputs.directional_derivative is None:
            result.terms.update(
                {f"residual/{n}": per_sample_mean_square(r).mean() for n, r in each.items()}
            )
        result.terms.update(_diagnostics(mix, fixed, parts))
        if mix.clamp is not None:
            result.terms["correction/clamped"] = _share_beyond(corrections, mix.clamp, u)
    return result


def _mixed_correction(
    parts: Mapping[str, TargetParts], weights: Mapping[str, float], inputs: TargetInputs
) -> Tensor | None:
    """Σ w_i C_i [B, *D], None where no target has a correction; 0 where t = s."""
    gap = expand_as(inputs.path.gap, inputs.u)
    total = None if inputs.directional_derivative is None else gap * inputs.directional_derivative
    for name, part in parts.items():
        if part.correction is not None:
            term = weights[name] * part.correction
            total = term if total is None else total + term
    return None if total is None else torch.where(gap == 0, 0.0, total)


def _limited(parts: Mapping[str, TargetParts], bound: float) -> dict[str, TargetParts]:
    """The same targets with each correction bounded."""
    found = {name: part.correction for name, part in parts.items()}
    return {
        name: TargetParts(parts[name].velocity, None if c is None else limited(c, bound))
        for name, c in found.items()
    }


def _share_beyond(corrections: list[Tensor | None], bound: float, u: Tensor) -> Tensor:
    """The share of samples of which some correction is bounded."""
    beyond = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    for correction in corrections:
        if correction is not None:
            beyond |= bound_factor(correction, bound) < 1.0
    return beyond.to(u.dtype).mean()


def _diagnostics(mix: LossMix, u: Tensor, parts: Mapping[str, TargetParts]) -> dict[str, Tensor]:
    size = torch.linalg.vector_norm(u)
    terms: dict[str, Tensor] = {}
    first: list[Tensor] = []
    second: list[Tensor] = []
    for name, part in parts.items():
        if part.correction is not None:
            terms[f"correction/{name}"] = torch.linalg.vector_norm(part.correction) / size
        share = mix.active[name].share
        if part.first is not None:
            first.append(share * part.first)
        if part.second is not None:
            second.append(share * part.second)
    if first and second:
        cosine = mean_cosine(torch.stack(first).sum(dim=0), torch.stack(second).sum(dim=0))
        terms["correction/cosine"] = cosine
    return terms
