"""Progress of long work: one rewritten line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")

_silent = False


def silence() -> None:
    """Say nothing more in this process: another one of the same run speaks for it."""
    global _silent
    _silent = True


def say(text: str) -> None:
    """One line for people on stderr: stdout is for results."""
    if not _silent:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """`73` -> `1m13s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """Counts towards a total; prints rate and time left. Off a terminal it prints at most one line every `every` seconds."""

    def __init__(self, label: str, total: int, unit: str = "it", stream: TextIO | None = None, every: float = 10.0) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.every = 0.2 if self.terminal else every
        self.done = 0
        self.note = ""
        self.start = self._printed = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Add finished units; `note` (a loss, a score) stands at the end of the line."""
        self.done += count
        self.note = note or self.note
        if time.monotonic() - self._printed >= self.every and not _silent:
            self._print()

    def _line(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-9)
        rate = self.done / seconds
        left = duration((self.total - self.done) / rate) if rate > 0 else "?"
        return f"{self.label}  {self.done}/{self.total} {self.unit}  {rate:.1f}/s  {left} left  {self.note}".rstrip()

    def _print(self) -> None:
        self._printed = time.monotonic()
        line = self._line()
        self.stream.write(f"\r\x1b[2K{line}" if self.terminal else line + "\n")
        self.stream.flush()

    def close(self) -> None:
        """The closing line: what was done, in how long, at what rate."""
        if _silent:
            return
        seconds = max(time.monotonic() - self.start, 1e-9)
        line = f"{self.label}  {self.done} {self.unit} in {duration(seconds)} ({self.done / seconds:.1f}/s)  {self.note}".rstrip()
        self.stream.write(f"\r\x1b[2K{line}\n" if self.terminal else line + "\n")
        self.stream.flush()


def track(items: Iterable[T], label: str, total: int, unit: str = "it") -> Iterator[T]:
    """Iterate with progress."""
    progress = Progress(label, total, unit)
    for item in items:
        yield item
        progress.advance()
    progress.close()
