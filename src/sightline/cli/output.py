"""What verbs print: JSON with `--json`, text without; problems on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from sightline.errors import Problem


def write_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))


def write_table(rows: Iterable[Sequence[object]]) -> None:
    """Columns padded to their widest cell, two spaces apart."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_problems(problems: Sequence[Problem], as_json: bool) -> None:
    """All problems: as `{"problems": [...]}` on stdout for scripts, as text on stderr for people."""
    if as_json:
        write_json({"problems": [problem.record() for problem in problems]})
        return
    print("\n\n".join(map(str, problems)), file=sys.stderr)
    if len(problems) > 1:
        print(f"\n{len(problems)} problems", file=sys.stderr)
