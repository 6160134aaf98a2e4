"""Sides of a comparison: each measured in a process of its own, by processor time, which other work on the machine does not change, and by peak resident memory."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Side = dict[str, Any]
"""What one process printed: numbers by name."""


def processor_seconds() -> float:
    """Processor seconds of this process and its ended children."""
    return sum(use.ru_utime + use.ru_stime for use in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)))


def peak_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(samples: int, wall: float, spent: float) -> Side:
    """Figures of a pass over `samples` rows that began at time.monotonic() = `wall` and processor_seconds() = `spent`."""
    seconds = processor_seconds() - spent
    return {"samples": samples, "seconds": seconds, "wall": time.monotonic() - wall, "rate": samples / seconds, "peak_mib": peak_mib()}


def run_side(script: Path, *words: str, packages: Path | None = None) -> Side:
    """What a process of `script` with these words prints as its last line, told on stderr too; `packages`: a folder that it imports from first. RuntimeError where it fails."""
    paths = [str(packages)] if packages else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])}
    ended = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(words)}: {ended.stderr[-2000:]}")
    found = json.loads(ended.stdout.splitlines()[-1])
    print(" ".join(words), json.dumps(found), file=sys.stderr, flush=True)
    return found


def ratios(ours: Sequence[Side], theirs: Sequence[Side], key: str) -> list[float]:
    """Ours over theirs, pair by pair."""
    return [own[key] / other[key] for own, other in zip(ours, theirs, strict=True)]


def median(sides: Sequence[Side], key: str) -> float:
    """Of one number of several passes."""
    return statistics.median(side[key] for side in sides)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, smallest and largest, and all of them."""
    return {"median": statistics.median(values), "least": min(values), "largest": max(values), "values": list(values)}
