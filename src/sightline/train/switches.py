"""Recipe switches that trade time for memory or rounding: recomputation, compilation, tf32. None of them changes a result beyond rounding, nor a name or number in the weights."""

from __future__ import annotations

import ctypes
import platform
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sightline.model.vlm import Model
from sightline.train.stage import StageConfig


def throw(model: Model, stage: StageConfig, backend: str = "inductor") -> None:
    """Make a prepared model run as the stage's switches say, for the rest of its life. `backend` of the compiler: see torch.compile."""
    if next(model.parameters()).device.type == "cpu":
        keep_memory()
    # told in both directions: an earlier stage of the same process may have said otherwise
    torch.backends.cuda.matmul.allow_tf32 = stage.tf32
    torch.backends.cudnn.allow_tf32 = stage.tf32
    for path, part in model.parts().items():
        prompted = model.prompts is not None and any(p.requires_grad for p in model.prompts.parameters())
        if path.startswith("encoders.") and not prompted and not any(p.requires_grad for p in part.parameters()):
            continue  # runs without gradient: nothing is kept, and the feature cache runs it once
        for block in getattr(part, "blocks", []):
            if stage.recompute and "forward" not in block.__dict__:
                block.__dict__["forward"] = partial(_again, block)
            if stage.compile:
                block.compile(dynamic=True, backend=backend)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of mallopt, from malloc.h of glibc."""


def keep_memory() -> bool:
    """Let this process keep freed memory for its next allocation, for the rest of its life; whether the C library can.

    Otherwise glibc hands every large tensor back to the kernel, which clears its pages again at each step: a tenth of the time of a small model on the CPU. The peak hardly changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    tell = ctypes.CDLL(None).mallopt
    return bool(tell(_MMAP_MAX, 0)) and bool(tell(_TRIM_THRESHOLD, -1))


def _again(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """A block whose inner activations are computed again in backward instead of being kept."""
    run = partial(type(block).forward, block)
    return checkpoint(run, *args, use_reentrant=False, **kwargs) if torch.is_grad_enabled() else run(*args, **kwargs)
