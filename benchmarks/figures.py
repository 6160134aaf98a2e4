"""Measured figures beside their bars: one line each for people, JSON for scripts, a table for RESULTS.md."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sightline.errors import Refused
from sightline.lineage import write_text

ROOT = Path(__file__).resolve().parent.parent
_TAKEN: dict[str, Callable[[Sequence[float]], float]] = {"median": statistics.median, "least": min, "largest": max}


class Unmeasured(Exception):
    """A line could not be measured; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure, measured once or several times, and what it has to be."""

    name: str
    values: tuple[float, ...]
    """One per repetition or seed. None at all = it could not be measured, which fails."""
    unit: str = ""
    """s, rows/s, MiB..; shares and counts have none."""
    least: float | None = None
    most: float | None = None
    take: Literal["median", "least", "largest"] = "median"
    """Which of the values is held against the bar."""
    note: str = ""
    """What stands beside it, such as the score of a control."""

    @property
    def value(self) -> float | None:
        """The one that counts."""
        return _TAKEN[self.take](self.values) if self.values else None

    @property
    def passed(self) -> bool:
        """Whether it was measured and lies within its bars."""
        value = self.value
        return value is not None and (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def measured(self) -> str:
        """The value, and the spread of several."""
        if self.value is None:
            return "not measured"
        spread = f" ({self.take} of {len(self.values)}, {_short(min(self.values))} to {_short(max(self.values))})" if len(self.values) > 1 else ""
        return f"{_short(self.value)}{self._unit}{spread}"

    @property
    def bar(self) -> str:
        """What it has to be."""
        bars = [f"{word} {_short(bar)}{self._unit}" for word, bar in (("at least", self.least), ("at most", self.most)) if bar is not None]
        return ", ".join(bars) or "no bar"

    @property
    def _unit(self) -> str:
        return f" {self.unit}" if self.unit else ""

    def __str__(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name:32}{self.measured:46}{self.bar}" + (f"  [{self.note}]" if self.note else "")

    def record(self) -> dict[str, Any]:
        """The figure as JSON."""
        fields = {name: getattr(self, name) for name in ("name", "value", "unit", "least", "most", "take", "passed", "note")}
        return {**fields, "values": list(self.values)}


def _short(value: float) -> str:
    value = float(value)
    return f"{value:,.0f}" if value.is_integer() or abs(value) >= 1000 else f"{value:.3g}"


Line = Callable[[], Iterable[Figure]]
"""Measures and yields figures as they are ready."""


def measure(lines: dict[str, Line]) -> Iterator[Figure]:
    """The figures of every line. What stops one line is its failure; the others go on."""
    for name, line in lines.items():
        try:
            yield from line()
        except (Unmeasured, Refused) as error:
            yield Figure(name=name, values=(), note=" | ".join(str(error).splitlines()))


def show(figures: Iterable[Figure]) -> list[Figure]:
    """Print each figure as it comes; all of them."""
    shown = []
    for figure in figures:
        print(figure, flush=True)
        shown.append(figure)
    failed = sum(not figure.passed for figure in shown)
    print(f"{len(shown)} figures, {failed} failed")
    return shown


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """When, on what, and with what it was measured."""

    date: str
    machine: str
    software: dict[str, str]
    revision: str
    """Of the code; `unknown` outside a checkout."""

    @classmethod
    def now(cls) -> Circumstances:
        """Those of this process."""
        from sightline.environment import environment

        facts = environment()
        machine, torch = facts["machine"], facts["torch"]
        accelerators = torch["gpus"] or ["no GPU"]
        said = ", ".join([processor(), f"{machine['usable cores']} cores", f"{machine['memory in GiB']:g} GiB", *accelerators])
        return cls(date=datetime.now(UTC).date().isoformat(), machine=said, software=facts["software"], revision=_revision())


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor where the system says it."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unnamed processor")


def _revision() -> str:
    ended = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False)
    return ended.stdout.strip() if ended.returncode == 0 else "unknown"


def table(figures: Iterable[Figure], circumstances: Circumstances, command: str) -> str:
    """A section of RESULTS.md."""
    versions = ", ".join(f"{name} {version}" for name, version in circumstances.software.items())
    head = [f"## {circumstances.date}: {circumstances.machine}", "", f"`{command}`, revision {circumstances.revision}; {versions}.", ""]
    rows = [f"| {'pass' if each.passed else '**fail**'} | {each.name} | {each.measured} | {each.bar} | {each.note.replace('|', '/')} |" for each in figures]
    return "\n".join([*head, "| | figure | measured | bar | beside |", "| --- | --- | --- | --- | --- |", *rows]) + "\n"


def append(file: Path, section: str) -> None:
    """Add a section at the end of a Markdown file."""
    write_text(file, file.read_text(encoding="utf-8").rstrip("\n") + "\n\n" + section)
