"""events.jsonl: the append-only record of a run from which every view is drawn."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Events:
    """Appends one JSON object per line; a line torn by a kill is ended, never rewritten, and left out when reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.is_file() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
        self._stream = path.open("a", encoding="utf-8")
        if torn:
            self._stream.write("\n")

    def write(self, event: dict[str, Any]) -> None:
        """Append one event with its time."""
        self._stream.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}, ensure_ascii=False) + "\n")
        self._stream.flush()

    def read(self) -> list[dict[str, Any]]:
        """All whole events so far."""
        found = []
        for line in filter(None, self.path.read_text(encoding="utf-8").split("\n")):  # splitlines would also split at U+2028 inside a text
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue  # the one line that a kill tore
        return found
