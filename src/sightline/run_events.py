"""events.jsonl: the append-only record of a run from which every view is drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Event = dict[str, Any]


class Events:
    """Appends one JSON object per line; a line torn by a kill is ended, never rewritten, and left out when reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.followers: list[Callable[[Event], None]] = []
        """Each is handed every event after it is written; what one raises ends the run, so a follower deals with its own faults."""
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = path.is_file() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
        self._stream = path.open("a", encoding="utf-8")
        if torn:
            self._stream.write("\n")

    def write(self, event: Event) -> None:
        """Append one event with its time."""
        said = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **event}
        self._stream.write(json.dumps(said, ensure_ascii=False) + "\n")
        self._stream.flush()
        for follower in self.followers:
            follower(said)

    def read(self) -> list[Event]:
        """All whole events so far."""
        return _parsed(self.path.read_bytes())


class Unheard(Events):
    """The events of a process that is not the first: nobody hears them, since the first says the same."""

    def __init__(self) -> None:
        self.followers = []

    def write(self, event: Event) -> None:
        """Say nothing."""

    def read(self) -> list[Event]:
        """Nothing was said."""
        return []


class EventReader:
    """Reads the events of a file that another process appends to: each call of `read` parses only what is new, and leaves a line without its end for later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._events: list[Event] = []
        self._offset = 0

    def read(self) -> list[Event]:
        """All whole events so far. Raises OSError where the file is not there."""
        with self.path.open("rb") as stream:
            if stream.seek(0, 2) < self._offset:  # the run was begun anew in the same folder
                self._events, self._offset = [], 0
            stream.seek(self._offset)
            new = stream.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._events += _parsed(whole)
        return self._events


def _parsed(text: bytes) -> list[Event]:
    found = []
    for line in filter(None, text.split(b"\n")):  # splitlines would also split at U+2028 inside a text
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # the one line that a kill tore, perhaps inside a character
    return found
