"""The device that a command computes on."""

import os

from meanflow_tune.plan.request import UserError


def usable_device(name: str) -> str:
    """The device that --device names; auto: this rank's GPU, or the CPU. Raises UserError."""
    import torch

    if name == "auto":
        rank = os.environ.get("LOCAL_RANK", 0)
        return f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).strip().splitlines()[0].rstrip(".")
        if why.startswith("Expected one of"):  # all that torch knows
            why = "torch knows no such device"
        raise UserError(
            f"--device {name}: cannot be used ({why}); take cpu, or leave it out."
        ) from None
    return name
