"""What this machine and this installation offer: versions, cores, memory, accelerators, and the packages that would break the others."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from sightline.lineage import software

OPTIONAL = ("torchvision", "rasterio", "pyshp", "gradio", "fastapi", "ray", "datasets", "bitsandbytes", "tensorboard", "wandb", "trackio")
"""Packages that Sightline uses or tolerates when they are there."""


def environment() -> dict[str, dict[str, Any]]:
    """Facts in groups, JSON values only. Imports torch; torchvision is tried in a process of its own, because a broken one takes transformers down with it."""
    return {
        "software": software(),
        "torch": _torch(),
        "machine": _machine(),
        "torchvision": _torchvision(),
        "optional": {name: _version(name) for name in OPTIONAL},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _torch() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "build": f"cuda {torch.version.cuda}" if torch.version.cuda else f"rocm {torch.version.hip}" if torch.version.hip else "cpu",
        "threads": torch.get_num_threads(),
        "bf16 on the cpu": _bfloat16_in_hardware(),
        "bf16 on the gpu": bool(gpus) and torch.cuda.is_bf16_supported(including_emulation=False),
        "gpus": [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in gpus],
    }


def _bfloat16_in_hardware() -> bool | str:
    """From the kernel's list of instructions; without it, bfloat16 runs in software and is slower than float32."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            words = set(stream.read().split())
    except OSError:
        return "unknown"
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def _machine() -> dict[str, Any]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    return {"platform": sys.platform, "cores": os.cpu_count(), "usable cores": usable, "memory in GiB": round(memory, 1)}


def _torchvision() -> dict[str, str]:
    """absent, ok or broken. Absent is fine: Sightline does without. Broken is not: transformers sees that it is there, imports it and fails."""
    if find_spec("torchvision") is None:
        return {"state": "absent"}
    tried = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return {"state": "ok"}
    return {"state": "broken: " + tried.stderr.strip().rpartition("\n")[2], "fix": f"{sys.executable} -m pip uninstall -y torchvision"}
