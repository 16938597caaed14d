"""Runs the passes through a network eagerly, or compiled once per architecture.

The compiled passes take the network as an argument. Dynamo then treats its parameters as inputs of
the graph and guards what else a module holds by value, so that another network of the same
architecture, and with it the next trial of a worker, runs the code that the first one compiled. The
number of rows is dynamic, because an objective passes only the rows with t < s.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from meanflow_tune.core.jets import passes
from meanflow_tune.core.jets.check import buffers_kept, difference
from meanflow_tune.core.jets.einops_backend import register_with_einops
from meanflow_tune.core.jets.passes import FirstOrderJet
from meanflow_tune.core.types import VelocityJet

P = ParamSpec("P")
T = TypeVar("T")
Precision = Literal["float32", "tf32", "bfloat16"]

# Architectures, grad modes and types that one process may compile a pass for.
MOST_VERSIONS = 64
REMEDY = "set `compile` to false to run as written"


@dataclass(frozen=True)
class Engine:
    """The passes that an objective needs.

    forward(model, x, t, s, **kwargs) is model(x, t, s, **kwargs); the others are those of `jets.passes`.
    """

    forward: Callable[..., Tensor]
    velocity_jet: Callable[..., VelocityJet]
    directional_jet: Callable[..., FirstOrderJet]


def _forward(model: Callable[..., Tensor], *inputs: Tensor, **kwargs: Any) -> Tensor:
    return model(*inputs, **kwargs)


EAGER = Engine(_forward, passes.velocity_jet, passes.directional_jet)


@functools.cache
def compiled() -> Engine:
    """The compiled passes, shared by all callers in this process, as is the code compiled for them.

    Their first call for an architecture takes seconds to minutes. They raise RuntimeError instead of
    falling back where a network cannot be compiled as one graph or the C++ compiler is missing.
    """
    # Dynamo would otherwise split the graphs of a module in DistributedDataParallel, so that gradients
    # are sent early; but DistributedDataParallel wraps the objective, which is not compiled.
    torch._dynamo.config.optimize_ddp = False
    full, first = _checked(_velocity_jet), _checked(_directional_jet)

    def velocity_jet(
        model: Any, x: Tensor, t: Tensor, s: Tensor, velocity: Tensor, **kwargs: Any
    ) -> VelocityJet:
        return VelocityJet(*full(model, x, t, s, velocity, **kwargs))

    def directional_jet(
        model: Any,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        dx: Tensor | None,
        dt: float | Tensor,
        ds: float | Tensor,
        **kwargs: Any,
    ) -> FirstOrderJet:
        return FirstOrderJet(
            *first(model, x, t, s, dx, _direction(t, dt), _direction(s, ds), **kwargs)
        )

    return Engine(_compiled(_forward), velocity_jet, directional_jet)


def engine_of(compile: bool, precision: Precision) -> Engine:
    """The engine that the settings `compile` and `precision` ask for.

    "tf32" is that of "float32": `core.products.float32_products` must surround both passes of a step.
    """
    engine = compiled() if compile else EAGER
    return _autocast(engine, torch.bfloat16) if precision == "bfloat16" else engine


def _autocast(engine: Engine, dtype: torch.dtype) -> Engine:
    """The passes with matrix products in `dtype` and results in the type of x.

    Autocast surrounds the network only; the arithmetic of an objective stays in full precision.
    """

    def forward(model: Any, x: Tensor, *times: Tensor, **kwargs: Any) -> Tensor:
        with torch.autocast(x.device.type, dtype):
            return engine.forward(model, x, *times, **kwargs).to(x.dtype)

    def velocity_jet(model: Any, x: Tensor, *inputs: Tensor, **kwargs: Any) -> VelocityJet:
        with torch.autocast(x.device.type, dtype):
            return engine.velocity_jet(model, x, *inputs, **kwargs)

    def directional_jet(model: Any, x: Tensor, *inputs: Any, **kwargs: Any) -> FirstOrderJet:
        with torch.autocast(x.device.type, dtype):
            return engine.directional_jet(model, x, *inputs, **kwargs)

    return Engine(forward, velocity_jet, directional_jet)


def _velocity_jet(
    model: Any, x: Tensor, t: Tensor, s: Tensor, velocity: Tensor, **kwargs: Any
) -> tuple[Tensor, ...]:
    jet = passes.velocity_jet(model, x, t, s, velocity, **kwargs)
    return jet.u, jet.d_s, jet.d_t, jet.d_t_d_s


def _directional_jet(
    model: Any,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    dx: Tensor | None,
    dt: Tensor | None,
    ds: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, ...]:
    dt_or_zero, ds_or_zero = 0.0 if dt is None else dt, 0.0 if ds is None else ds
    jet = passes.directional_jet(model, x, t, s, dx, dt_or_zero, ds_or_zero, **kwargs)
    return jet.u, jet.derivative


def _direction(time: Tensor, direction: float | Tensor) -> Tensor | None:
    """[B], or None for zero: a number would be compiled in, and each further one compiled again."""
    if isinstance(direction, Tensor):
        return direction.expand_as(time)
    return None if direction == 0 else torch.full_like(time, direction)


def _compiled(function: Callable[P, T]) -> Callable[P, T]:
    graph: Callable[..., T] = torch.compile(  # type: ignore[call-overload]
        function, fullgraph=True, isolate_recompiles=True, recompile_limit=MOST_VERSIONS
    )

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        rows = next(x.shape[0] for x in args if isinstance(x, Tensor))
        if rows < 2:  # a size of 1 is never dynamic and would be compiled separately
            return function(*args, **kwargs)
        inputs = [_dynamic(x, rows) for x in args]
        named = {name: _dynamic(x, rows) for name, x in kwargs.items()}
        register_with_einops()
        try:
            return graph(*inputs, **named)
        except _failures() as error:
            raise RuntimeError(_reason(error)) from error

    return call


def _checked(function: Callable[P, tuple[Tensor, ...]]) -> Callable[P, tuple[Tensor, ...]]:
    """`function` compiled, and compared with the eager one after each new compilation.

    Dynamo does not always treat a jet as Python does: it turns `jet += tensor` into a sum, which other
    names of the jet do not see, and it may drop tangents (pytorch 187284).
    """
    graph = _compiled(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> tuple[Tensor, ...]:
        before = _graphs()
        found = graph(*args, **kwargs)
        if _graphs() > before:
            model: Any = args[0]
            with torch.no_grad(), buffers_kept(model):
                fault = difference(found, function(*args, **kwargs))
            if fault is not None:
                raise RuntimeError(
                    f"`compile`: compiled code gives other derivatives than the network as it is written "
                    f"({fault}). It may write into a tensor that has another name, as by `h += bias`: "
                    f"write `h = h + bias`; or {REMEDY}"
                )
        return found

    return call


def _graphs() -> int:
    """How many graphs this process has compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def _dynamic(x: Any, rows: int) -> Any:
    if not isinstance(x, Tensor):
        return x
    # Strides, and whether a tensor starts where its storage does, would be compiled in: a rank's rows are
    # strided, selected rows are not.
    x = (
        x.contiguous()
        if x.storage_offset() == 0
        else x.clone(memory_format=torch.contiguous_format)
    )
    if x.dim() > 0 and x.shape[0] == rows:
        torch._dynamo.mark_dynamic(x, 0)
    return x


def _failures() -> tuple[type[Exception], ...]:
    from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

    return (
        torch._dynamo.exc.TorchDynamoException,
        InductorError,
        InvalidCxxCompiler,
        CppCompileError,
    )


def _reason(error: BaseException) -> str:
    """One line: what is wrong and what to do about it."""
    from torch._inductor.exc import InvalidCxxCompiler

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InvalidCxxCompiler) or "InvalidCxxCompiler" in str(cause):
            return (
                "`compile` needs a C++ compiler, and none was found: install g++ (or set CXX), or "
                f"{REMEDY}"
            )
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    context = [line.partition("context:")[2].strip() for line in lines if "debug context:" in line]
    why = ": ".join([lines[0], *filter(None, context)])
    return f"`compile`: the network cannot be compiled as one graph ({why}); {REMEDY}"
