"""Rules for complex numbers and Fourier transforms.

A jet of complex numbers has complex storage. Products and sums of it, and functions like exp, have the rules
of real numbers; the network's output must be real again.
"""

from typing import Any

import torch

from meanflow_tune.core.jets.jet import Jet, lift, lift_apart
from meanflow_tune.core.jets.register import everywhere, register_rule
from meanflow_tune.core.jets.rules.arithmetic import multiply
from meanflow_tune.core.jets.rules.elementwise import cos, sin
from meanflow_tune.core.jets.rules.shapes import each_component, moves
from meanflow_tune.core.jets.rules.special import atan2


@register_rule(*everywhere("view_as_complex"))
@moves(torch.view_as_complex)
def view_as_complex(x: Jet) -> Jet:
    *strides, last = x.parts.stride()
    pairs = last == 1 and all(stride % 2 == 0 for stride in strides)
    return Jet(torch.view_as_complex(x.parts if pairs else x.parts.contiguous()))


@register_rule(*everywhere("view_as_real"))
@moves(torch.view_as_real)
def view_as_real(x: Jet) -> Jet:
    return Jet(torch.view_as_real(x.parts.resolve_conj()))


@register_rule(torch.real)
def real(x: Jet) -> Jet:
    if not x.dtype.is_complex:
        return x
    return Jet.of([part.real for part in x.components]) if x.apart else Jet(x.parts.real)


@register_rule(torch.imag)
def imag(x: Jet) -> Jet:
    return Jet.of([part.imag for part in x.components]) if x.apart else Jet(x.parts.imag)


@register_rule(torch.complex)
def complex_of(real: Any, imag: Any) -> Jet:
    parts = [torch.complex(*pair) for pair in lift_apart((real, imag))]
    apart = any(isinstance(x, Jet) and x.apart for x in (real, imag))
    return Jet.of(parts) if apart else Jet(torch.stack(parts))


@register_rule(torch.polar)
def polar(abs: Any, angle: Any) -> Jet:
    """abs · (cos(angle) + i sin(angle)), which is not linear in its angle."""
    if not isinstance(angle, Jet):
        return multiply(abs, torch.polar(torch.ones_like(angle), angle))
    return complex_of(multiply(abs, cos(angle)), multiply(abs, sin(angle)))


@register_rule(*everywhere("angle"))
def angle(x: Jet) -> Jet:
    if x.dtype.is_complex:
        return atan2(imag(x), real(x))
    return Jet(lift(torch.angle(x.value), x.count, x.value))


for _operator in everywhere(
    "conj", "conj_physical", "resolve_conj", "resolve_neg", "cfloat", "cdouble"
):
    each_component(_operator, __name__)

_TRANSFORMS = (
    "fft ifft rfft irfft hfft ihfft fft2 ifft2 rfft2 irfft2 hfft2 ihfft2 fftn ifftn rfftn irfftn "
    "hfftn ihfftn fftshift ifftshift"
)
for _name in _TRANSFORMS.split():
    each_component(getattr(torch.fft, _name), __name__)
for _operator in everywhere("stft", "istft"):
    each_component(_operator, __name__)
