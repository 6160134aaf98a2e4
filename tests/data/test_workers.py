"""Workers work, and do not outlive the process that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, time
from sightline.data.workers import pool
if __name__ == "__main__":
    with pool(2, "{start}") as processes:
        print(*sorted(processes.map(abs, [-2, 1])), *processes._processes, flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_end_when_their_parent_is_killed(start: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM.format(start=start))
    process = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    one, two, *workers = map(int, process.stdout.readline().split())
    assert (one, two) == (1, 2)
    assert workers
    assert all(alive(worker) for worker in workers)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)


def alive(number: int) -> bool:
    """Whether a process runs: one that has ended and that nobody has asked about does not."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{number}/stat")
    return not state.is_file() or state.read_text().rpartition(")")[2].split()[0] != "Z"
