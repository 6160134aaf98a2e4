"""What is wrong, where, and how to mend it: the one form in which Sightline refuses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

LONGEST = 4000
"""Characters of one field of a problem that are said."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One finding. `str(problem)` is the text that users read: it can be printed and stored whatever it quotes."""

    code: str
    """`room/kebab-case`, stable: scripts may match on it."""
    place: str
    """`file:line`, `store:row`, `part.tensor` or a node of the run."""
    found: str
    allowed: str = ""
    fix: str = ""
    """One command or one edit."""
    severity: Literal["refuse", "warn"] = "refuse"

    def __post_init__(self) -> None:
        for name in ("place", "found", "allowed", "fix"):
            text = getattr(self, name)
            if len(text) > LONGEST or not text.isascii():
                object.__setattr__(self, name, _sayable(text))

    def __str__(self) -> str:
        lines = [f"{self.code} at {self.place}", f"  found:   {self.found}"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.fix:
            lines.append(f"  fix:     {self.fix}")
        return "\n".join(lines)

    def record(self) -> dict[str, str]:
        """The problem as flat JSON."""
        return {"code": self.code, "place": self.place, "found": self.found, "allowed": self.allowed, "fix": self.fix, "severity": self.severity}


def _sayable(text: str) -> str:
    """The beginning of a long text, with an escape for each byte of a file name that is no UTF-8."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}.. ({len(text)} characters)"
    return short.encode("utf-8", "backslashreplace").decode()


class Refused(Exception):
    """Raised with every problem that one pass found, never with the first only."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: list[Problem] = [problems] if isinstance(problems, Problem) else list(problems)
        assert self.problems, "Refused needs at least one problem"
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type, tuple[list[Problem]]]:
        return (type(self), (self.problems,))


def nearest(name: str, choices: Sequence[str]) -> str:
    """`did you mean X?` for the closest of `choices`, or an empty string when none is close."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""
