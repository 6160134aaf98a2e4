"""What a set holds: which labels it annotates, how often, and which come together. Negatives are drawn from it.

Statistics are kept by source, since a set that does not annotate bridges says nothing about bridges. Written to a file once and given again, they keep every row as it is when
pictures are added.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sightline.errors import Problem, Refused
from sightline.lineage import write_json


@dataclass(kw_only=True)
class SetStatistics:
    """One source: in how many pictures each label is present, alone and with another."""

    pictures: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    together: dict[str, Counter[str]] = field(default_factory=dict)

    def see(self, present: Iterable[str]) -> None:
        """Count one picture."""
        labels = sorted(present)
        self.pictures += 1
        self.labels.update(labels)
        for label in labels:
            self.together.setdefault(label, Counter()).update(other for other in labels if other != label)


class Statistics:
    """Statistics of several sources."""

    def __init__(self, sources: Mapping[str, SetStatistics]) -> None:
        self.sources = dict(sources)

    @classmethod
    def learn(cls, seen: Iterable[tuple[str, Iterable[str]]]) -> Statistics:
        """From (source, labels present) of each picture."""
        sources: dict[str, SetStatistics] = {}
        for source, present in seen:
            sources.setdefault(source, SetStatistics()).see(present)
        return cls(sources)

    def of(self, source: str) -> SetStatistics:
        """Those of one source; empty where it is not known."""
        return self.sources.get(source, SetStatistics())

    def write(self, path: Path) -> None:
        """Write them to a JSON file."""
        write_json(
            path,
            {
                source: {
                    "pictures": one.pictures,
                    "labels": dict(sorted(one.labels.items())),
                    "together": {label: dict(sorted(others.items())) for label, others in sorted(one.together.items())},
                }
                for source, one in sorted(self.sources.items())
            },
        )

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read them from a file that `write` wrote. Refused when it is not one."""
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return cls({str(source): _source(one) for source, one in record.items()})
        except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            found = f"{type(error).__name__}: {str(error)[:120]}"
            allowed = "a file written by `sightline data synthesize --statistics FILE`"
            raise Refused(Problem(code="data/statistics", place=str(path), found=found, allowed=allowed, fix="write it again, or leave it out")) from None


def _source(one: Mapping[str, Any]) -> SetStatistics:
    return SetStatistics(
        pictures=int(one["pictures"]), labels=_counts(one["labels"]), together={str(key): _counts(value) for key, value in one["together"].items()}
    )


def _counts(values: Mapping[str, Any]) -> Counter[str]:
    return Counter({str(label): int(count) for label, count in values.items()})
