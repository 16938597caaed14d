"""Registers rules: for which operators of torch each stands, and its in-place forms."""

import operator
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from meanflow_tune.core.jets.errors import WritesIntoConstant
from meanflow_tune.core.jets.jet import Jet, align
from meanflow_tune.core.jets.signatures import Spelling, bound, spelling
from meanflow_tune.core.jets.table import RULES, SPELLINGS, SWAPPED

Rule = TypeVar("Rule", bound=Callable[..., Any])


def register_rule(*operators: Any) -> Callable[[Rule], Rule]:
    """Decorator: the rule by which `operators` act on jets, e.g. `@register_rule(torch.atan)`.

    The rule is called with the operator's own arguments, of which at least one is a `Jet`, and
    returns what the operator returns, with jets for tensors that have derivatives. `operators` are the
    objects that a network calls (functions of torch, methods such as `Tensor.atan`); a later rule
    for the same operator replaces an earlier one. Raises TypeError where an operator is not callable.

    A function of one variable needs its value and first two derivatives; `chain` does the rest.
    For the modified Bessel function I₀, with I₀' = I₁ and I₀'' = I₀ - I₁ / x:

    >>> import torch
    >>> from meanflow_tune.core.jets import Jet, chain, register_rule
    >>> @register_rule(torch.special.i0, torch.i0, torch.Tensor.i0)
    ... def i0(x: Jet) -> Jet:
    ...     value = x.parts[0]
    ...     f, f1 = torch.special.i0(value), torch.special.i1(value)
    ...     return chain(x.parts, f, f1, f - f1 / value)
    >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> one, zero = torch.ones_like(x), torch.zeros_like(x)
    >>> torch.special.i0(Jet(torch.stack([x, one, one, zero]))).parts[3]  # I₀''
    tensor([0.7009, 1.4843], dtype=torch.float64)

    A rule may also be a composition of operators that have rules; jets take part in arithmetic:

    >>> x = Jet(torch.tensor([[2.0], [1.0], [1.0], [0.0]]))
    >>> @register_rule(torch.special.erfcx)
    ... def erfcx(x):
    ...     return torch.exp(x * x) * torch.erfc(x)
    >>> torch.special.erfcx(x).parts[0]
    tensor([0.2554])

    Where two operands may be jets, work on their storages `x.parts` [K, *shape]; for the product rule
    see `rules.arithmetic.multiply`. Refuse what a rule cannot do:
    ``raise UnsupportedOperator("name of the form", "what to do instead")``.
    """
    for each in operators:
        if not callable(each):
            raise TypeError(f"an operator must be callable, but got {each!r}")

    def register(rule: Rule) -> Rule:
        for each in operators:
            RULES[each] = rule
            SPELLINGS[each] = how = spelling(each, rule)
            name = getattr(each, "__name__", "")
            if name.startswith("__r"):
                SWAPPED[name] = rule
            # A method becomes one of Jet's own, which saves a look-up per call; except Python's
            # operators, which `Jet` defines itself.
            if getattr(Tensor, name, None) is each and not name.startswith("__"):
                setattr(Jet, name, _method(rule, how))
        return rule

    return register


def _method(rule: Callable[..., Any], how: Spelling) -> Callable[..., Any]:
    @wraps(rule)
    def method(self: Any, *args: Any, **named: Any) -> Any:
        return bound(rule, how, (self, *args), named) if named else rule(self, *args)

    return method


def everywhere(*names: str) -> list[Any]:
    """All the operators under each name: function, method, functional and Python's own."""
    places = (torch, Tensor, F, torch.special)
    found = [
        getattr(place, name, None)
        for name in names
        # The compiler calls functions of the module `operator` for + and the like.
        for place in ((Tensor, operator) if name.startswith("__") else places)
    ]
    return [each for each in found if callable(each)]


def in_place(rule: Callable[..., Jet]) -> Callable[..., Jet]:
    """The same rule, writing its result into the first operand, whose views see it too."""

    @wraps(rule, assigned=(), updated=())  # for the names of its arguments
    def stored(x: Any, *options: Any, **named: Any) -> Jet:
        if not isinstance(x, Jet):
            if (
                torch.compiler.is_compiling()
            ):  # which cannot be begun again; the engine compares results
                return rule(x, *options, **named)
            raise WritesIntoConstant(
                "writing derivatives into a tensor that has none", "use the form that returns them"
            )
        # Autograd may keep what the rule reads, which must then not be overwritten.
        copied = x.apart or torch.is_grad_enabled()
        source = Jet(x.parts.clone()) if copied else x
        result = rule(source, *options, **named)
        if not x.apart:
            x.parts.copy_(align(result.parts, x.dim()))
            return x
        for own, new in zip(x.components, result.components, strict=True):
            own.copy_(new)
        return x

    return stored
