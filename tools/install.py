"""Installs Sightline into a virtual environment: `python3 tools/install.py VENV [--dev]`. Standard library only; one line per phase with its seconds."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
CUDA_NOTE = """\
  Only a CUDA build of torch is on offer here: about 2.7 GB will be downloaded. It also runs without a GPU.
  For the CPU build (0.2 GB), stop now and name the PyTorch project's CPU wheel index to pip, in its configuration or so:
      {pip} install --extra-index-url <the PyTorch project's CPU wheel index> torch=={version}+cpu
  then start again: an installed torch of the right version is kept."""


def main() -> int:
    """Make the environment if it is missing, then install the package in editable mode at the versions of constraints.txt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venv", type=Path)
    parser.add_argument("--dev", action="store_true", help="also what tests and checks need")
    arguments = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036 - it runs before anything is installed, under whatever Python there is
        print(f"Sightline needs Python 3.11 or newer, this is {sys.version.split()[0]}: make PYTHON=python3.11", file=sys.stderr)
        return 2
    python = arguments.venv / "bin" / "python"
    if not python.exists():
        with phase(f"virtual environment {arguments.venv}"):
            subprocess.run([sys.executable, "-m", "venv", str(arguments.venv)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    if not has_torch(python):
        with phase("which torch is on offer"):
            version, cuda = offered_torch(pip)
        print(f"  torch {version}" if not cuda else CUDA_NOTE.format(pip=" ".join(pip[:3]), version=version), flush=True)
    with phase("packages of constraints.txt" + (" and development tools" if arguments.dev else "")):
        target = f"{ROOT}[dev]" if arguments.dev else str(ROOT)
        return subprocess.run([*pip, "install", "-qq", "--no-compile", "-c", str(CONSTRAINTS), "-e", target], check=False).returncode


@contextmanager
def phase(label: str) -> Iterator[None]:
    """Print what is being done, then how long it took."""
    print(f"{label} ...", end="", flush=True)
    start = time.monotonic()
    yield
    print(f" {time.monotonic() - start:.0f}s", flush=True)


def has_torch(python: Path) -> bool:
    """Whether the environment holds the torch that constraints.txt names, in whatever build."""
    program = "import importlib.metadata as m; print(m.version('torch'))"
    found = subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=False)
    return found.stdout.strip().partition("+")[0] == pinned_torch()


def pinned_torch() -> str:
    """The version that constraints.txt pins."""
    match = re.search(r"^torch==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert match, "constraints.txt pins torch"
    return match[1]


def offered_torch(pip: list[str]) -> tuple[str, bool]:
    """Version of the torch that pip would take, and whether it is a CUDA build: those require the CUDA libraries as packages."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        asked = ["install", "-qq", "--dry-run", "--ignore-installed", "--no-deps", "--report", str(report), f"torch=={pinned_torch()}"]
        subprocess.run([*pip, *asked], check=True)
        metadata = json.loads(report.read_text(encoding="utf-8"))["install"][0]["metadata"]
    needs = [requirement.lower() for requirement in metadata.get("requires_dist", [])]
    local = metadata["version"].partition("+")[2]
    return metadata["version"], sys.platform == "linux" and local != "cpu" and any(need.startswith(("nvidia", "cuda", "triton")) for need in needs)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"\nthis command failed, its message is above: {' '.join(error.cmd)}")
